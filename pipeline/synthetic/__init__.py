"""A rendered city.

In: a seed and a number of frames. Out: images, z-depth, poses, intrinsics and times, as arrays (`CityDrive`) or as a
drive on storage in KITTI layout (`write_drive`), which `read_drive` reads back with its truth. Training, evaluation,
tests and the default run use it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.synthetic.drive import CityDrive, RenderedFrames
    from pipeline.synthetic.read import TrueDrive, list_drives, read_drive
    from pipeline.synthetic.route import perturbed_motion
    from pipeline.synthetic.write import DriveSpec, sample_drive, write_drive

__all__ = [
    "CityDrive",
    "DriveSpec",
    "RenderedFrames",
    "TrueDrive",
    "list_drives",
    "perturbed_motion",
    "read_drive",
    "sample_drive",
    "write_drive",
]

_HOMES = {
    "CityDrive": "drive",
    "DriveSpec": "write",
    "RenderedFrames": "drive",
    "TrueDrive": "read",
    "list_drives": "read",
    "perturbed_motion": "route",
    "read_drive": "read",
    "sample_drive": "write",
    "write_drive": "write",
}


def __getattr__(name: str) -> Any:  # Python asks it for a name that the package does not have yet
    """Imports a public name when it is first used: reading a drive's truth does without torch, which renders."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pipeline.synthetic.{_HOMES[name]}"), name)

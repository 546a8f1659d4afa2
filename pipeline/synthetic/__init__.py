"""A rendered city.

In: a seed and a number of frames. Out: images, z-depth, poses, intrinsics and times, as arrays (`CityDrive`) or as a
drive on storage in KITTI layout (`write_drive`), which `read_drive` reads back with its truth. Training, evaluation,
tests and the default run use it.
"""

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

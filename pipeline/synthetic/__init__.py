"""A rendered city. In: a seed and a number of frames. Out: images, z-depth, poses, intrinsics and times,
at once
(`CityDrive`) or as an ordinary drive on storage in KITTI layout (`write_drive`), and such a drive read back
with its truth (`read_drive`). Used by training, by evaluation, by tests and by the default run."""

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

"""A rendered city. In: a seed and a number of frames. Out: images, z-depth, poses, intrinsics and timestamps, or the same as a
drive on storage in KITTI layout. Used by training, by tests and by the default run."""

from pipeline.city.drive import CityDrive, RenderedFrames
from pipeline.city.route import perturbed_motion

__all__ = ["CityDrive", "RenderedFrames", "perturbed_motion"]

"""Many drives in one frame: links between drives -> a city.

In: drives as `pipeline.backend.join_chunks` joined them, Sim(3) links between frames of two of them. Out: City.
NumPy and SciPy; no Ray, no torch, no storage.
"""

from pipeline.fuse.link import Link, LinkVerdict
from pipeline.fuse.solve import City, FusedDrive, solve

__all__ = ["City", "FusedDrive", "Link", "LinkVerdict", "solve"]

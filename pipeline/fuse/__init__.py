"""Many drives in one frame: published drives -> links between them -> a city in tiles.

`run_fuse` does all of it for an output folder (jobs.fuse), and `open_city` reads the city that it wrote. `solve` is its
core, a pure function: drives as `pipeline.backend.join_chunks` returns them, and Sim(3) links between frames of two
drives, give the place of every frame in the city.
"""

from pipeline.fuse.city import PublishedCity, open_city
from pipeline.fuse.config import FuseConfig
from pipeline.fuse.link import Link, LinkVerdict
from pipeline.fuse.run import Fused, run_fuse
from pipeline.fuse.solve import City, FusedDrive, solve

__all__ = [
    "City",
    "FuseConfig",
    "Fused",
    "FusedDrive",
    "Link",
    "LinkVerdict",
    "PublishedCity",
    "open_city",
    "run_fuse",
    "solve",
]

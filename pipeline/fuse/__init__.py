"""Many drives in one frame: published drives -> links between them -> a city in tiles.

`solve` is a pure function of drives as `pipeline.backend.join_chunks` joined them and Sim(3) links between frames of
two of them. `run_fuse` does all of it for an output (jobs.fuse); `open_city` reads what it wrote.
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

"""Which files beside frames hold positions, by their names alone; pipeline.georeference reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence

TRACKS = (".gpx", ".nmea", ".nma")
"""Files that hold nothing else."""
TABLES = (".csv", ".tsv")
_STEMS = frozenset(
    ("gps", "gnss", "ins", "positions", "position", "fixes", "locations", "location", "coordinates", "geotags")
    + ("ublox", "qcom", "track", "speed")
)
_WORD = re.compile(r"(^|[^a-z])(gps|gnss|speed|positions|locations|geotags?)([^a-z]|$)")


def is_positions_name(name: str, drive_id: str = "") -> bool:
    """Whether a file is taken for positions (or speeds) of the drive whose frames it lies with: gps.csv, track.gpx,
    drive_gps.csv, and a table of the drive's own name."""
    stem, _, ending = name.lower().rpartition(".")
    if not stem or stem.startswith("."):
        return False
    if f".{ending}" in TRACKS:
        return True
    if f".{ending}" not in TABLES:
        return ending in ("txt", "log") and (stem == "nmea" or stem.endswith(("_nmea", ".nmea")))
    return stem in _STEMS or stem == drive_id.lower() or _WORD.search(stem) is not None


def positions_beside(names: Sequence[str]) -> tuple[str, ...]:
    """The names of files that may hold positions of the drive that they lie with, whatever its name."""
    return tuple(name for name in names if is_positions_name(name) or name.lower().endswith(TABLES))


def is_speed_name(name: str) -> bool:
    """Whether such a file is of speeds by its name; positions count before it."""
    return "speed" in name.lower()

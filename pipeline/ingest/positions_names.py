"""Tells by their names which files beside frames contain positions; pipeline.georeference reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence

TRACKS = (".gpx", ".nmea", ".nma")
"""Endings of files that contain only positions."""
TABLES = (".csv", ".tsv")
_STEMS = frozenset(
    ("gps", "gnss", "ins", "positions", "position", "fixes", "locations", "location", "coordinates", "geotags")
    + ("ublox", "qcom", "track", "speed")
)
_WORD = re.compile(r"(^|[^a-z])(gps|gnss|speed|positions|locations|geotags?)([^a-z]|$)")


def is_positions_name(name: str, drive_id: str = "") -> bool:
    """Whether a file beside frames is taken for positions (or speeds) of their drive: gps.csv, track.gpx,
    drive_gps.csv, and a table with the drive's name."""
    stem, _, ending = name.lower().rpartition(".")
    if not stem or stem.startswith("."):
        return False
    if f".{ending}" in TRACKS:
        return True
    if f".{ending}" not in TABLES:
        return ending in ("txt", "log") and (stem == "nmea" or stem.endswith(("_nmea", ".nmea")))
    return stem in _STEMS or stem == drive_id.lower() or _WORD.search(stem) is not None


def positions_beside(names: Sequence[str]) -> tuple[str, ...]:
    """The names of files that may contain positions of the drive beside them, for any name of the drive."""
    return tuple(name for name in names if is_positions_name(name) or name.lower().endswith(TABLES))


def is_speed_name(name: str) -> bool:
    """Whether such a file has speeds by its name; a file of positions is preferred."""
    return "speed" in name.lower()

"""The city's page: paths of all drives in one frame, links, tiles and what changed, as one JSON file and pictures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.common.visible_text import visible_values
from pipeline.errors import DriveError, PipelineError
from pipeline.fuse import PublishedCity, open_city
from pipeline.fuse.change import GONE
from pipeline.fuse.evidence import is_unread
from pipeline.fuse.tiles import level_axes

CITY_JSON, PICTURES = "city.json", "city"
_PATH_POINTS = 200  # points by which a drive's path is drawn
_MOST_LINKS, _MOST_CHANGES = 20_000, 500  # that are drawn; the others are only counted
_DIGITS = 3


def write_city(site: Path, output: str, reporter: Reporter) -> bool:
    """Write city.json and the pictures of changes; returns True. Where the output has no city that can be read, it
    writes no file, reports the reason, and returns False."""
    try:
        city = open_city(output)
        data = city_data(city, site)
    except PipelineError as error:
        if not isinstance(error, DriveError) or not str(error).startswith("no city"):
            reporter.say(f"the city is not shown: {error}")
        (site / CITY_JSON).unlink(missing_ok=True)
        return False
    text = json.dumps(visible_values(data), separators=(",", ":"), allow_nan=False)
    storage.write_bytes_atomically(str(site / CITY_JSON), text.encode())
    return True


def city_data(city: PublishedCity, site: Path) -> dict[str, object]:
    """The data that city.html shows; pictures are written to the site's folder. Raises DriveError, StorageError."""
    frames = {frame.name: frame for frame in city.manifest.frames}
    place: dict[tuple[str, int], list[float]] = {}
    drives = []
    placements = city.placements()
    for row in city.drives.to_pylist():
        placement = placements[row["drive_id"]]
        flat = placement.city_from_camera[:, :3, 3][:, level_axes(frames[row["frame"]].on_earth)]
        for number, at in zip(placement.frame_index.tolist(), flat.tolist(), strict=True):
            place[row["drive_id"], number] = at
        some = np.unique(np.linspace(0, len(flat) - 1, min(len(flat), _PATH_POINTS)).round().astype(int))
        drives.append(
            {
                "id": row["drive_id"],
                "frame": row["frame"],
                "path": [_rounded(point) for point in flat[some].tolist()],
                "links": row["links"],
                "rejected": row["links_rejected"],
                "deviation": None if not np.isfinite(row["deviation"]) else round(row["deviation"], _DIGITS),
                "evidence": row["evidence"],
            }
        )
    return {
        "version": city.manifest.version,
        "published_at": city.manifest.published_at,
        "frames": [
            {"name": frame.name, "on_earth": frame.on_earth, "tile": frame.tile} for frame in city.manifest.frames
        ],
        "counts": dict(city.manifest.counts),
        "notes": list(city.manifest.notes),
        "drives": drives,
        **_links(city, {one["id"]: one["frame"] for one in drives}, place),
        "tiles": [
            {"frame": tile.frame, "x": tile.x, "y": tile.y, "points": tile.file.rows, "drives": len(tile.drives)}
            for tile in city.manifest.tiles
        ],
        "changes": _changes(city, frames, site),
    }


def _links(
    city: PublishedCity, frame_of: Mapping[str, str], place: Mapping[tuple[str, int], list[float]]
) -> dict[str, object]:
    """Links that the pictures confirm, accepted or rejected; the other candidates are counted by their reason."""
    drawn: list[dict[str, object]] = []
    apart, other = 0, Counter[str]()
    for row in city.links.to_pylist():
        ends = [(row[f"{end}_drive"], row[f"{end}_frame"]) for end in ("first", "second")]
        if not row["verified"]:
            other[_why_not(row["reason"])] += 1
        elif frame_of.get(ends[0][0]) != frame_of.get(ends[1][0]) or any(end not in place for end in ends):
            apart += 1
        elif len(drawn) < _MOST_LINKS:
            drawn.append(
                {
                    "frame": frame_of[ends[0][0]],
                    "ends": [_rounded(place[end]) for end in ends],
                    "names": [f"{name}, frame {number}" for name, number in ends],
                    "accepted": row["accepted"],
                    "reason": row["reason"],
                }
            )
    return {"links": drawn, "links_apart": apart, "candidates_without": dict(other)}


def _why_not(reason: str) -> str:
    """The kind of a candidate without a link, from the reason in the table `links`."""
    if is_unread(reason):
        return "could not be compared: a frame, its points or its drive cannot be read"
    return "opposite directions" if "opposite directions" in reason else "not the same place"


def _changes(city: PublishedCity, frames: Mapping[str, object], site: Path) -> list[dict[str, object]]:
    rows = sorted(city.changes.to_pylist(), key=lambda row: (-row["points"], row["object"]))[:_MOST_CHANGES]
    made: list[dict[str, object]] = []
    for row in rows:
        axes = ["xyz"[axis] for axis in level_axes(frames[row["frame"]].on_earth)]  # type: ignore[attr-defined]
        shown = None
        if row["picture"] is not None:
            shown = f"{PICTURES}/{row['picture'].replace('/', '-')}"
            (site / PICTURES).mkdir(exist_ok=True)
            storage.write_bytes_atomically(str(site / shown), city.change_picture(row["picture"]))
        made.append(
            {
                "object": row["object"],
                "frame": row["frame"],
                "kind": "gone" if row["class"] == GONE else "new",
                "drive": row["drive_id"],
                "other": row["other_id"],
                "points": row["points"],
                "box": _rounded([row[f"{end}_{axis}"] for end in ("low", "high") for axis in axes]),
                "picture": shown,
            }
        )
    return made


def _rounded(values: list[float]) -> list[float]:
    return [round(float(value), _DIGITS) for value in values]

"""The index page over many drives: for each drive an entry with some numbers, a sketch of its path and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline import storage
from pipeline.common.geodesy import geodetic_from_enu
from pipeline.common.progress import Reporter
from pipeline.common.secrets import without_credentials
from pipeline.common.visible_text import visible_values
from pipeline.drive_images import read_frames
from pipeline.errors import DriveError, PipelineError, StorageError
from pipeline.publish import PublishedDrive, is_published, open_drive
from pipeline.report.drive_view import DriveView
from pipeline.report.images import save_jpeg, spread

Entry = dict[str, object]  # what index.html reads
_READERS = 16  # drives that are read at a time: reading is bound by the latency of the store
_SKETCH_POINTS = 80
_THUMB_WIDTH = 360
REPORT_SIGNATURE, REPORT = "report.json", "report"
"""The file by which a folder of the site is recognised as a report of this program, and of which result."""
ENTRY_VERSION = 2
"""Stored entries of another version are made again."""


def published_drives(output: str) -> list[str]:
    """Names of the published drives of an output, in order. Raises DriveError where there are none."""
    output = storage.absolute(output)
    shown = without_credentials(output)
    if not storage.exists(output):
        raise DriveError(f"no output at {shown}; check --output")
    folders = [name for name in storage.list_folders(output) if not name.startswith((".", "_"))]
    with ThreadPoolExecutor(_READERS) as pool:
        there = list(pool.map(lambda name: _is_there(output, name), folders))
    drives = [name for name, finished in zip(folders, there, strict=True) if finished]
    if not drives:
        raise DriveError(f"no finished drive in {shown}; reconstruct one first, or check --output")
    return drives


def index_drives(
    output: str, drives: Sequence[str], site: Path, reporter: Reporter, images_from: str | None = None
) -> list[Entry]:
    """One entry for each drive, in the given order. Entries of unchanged results are taken from the site.

    A drive that cannot be read (damaged, of a newer schema, deleted) gets an entry that says so.
    """

    def one(drive_id: str) -> Entry:
        entry = _entry(output, drive_id, site, images_from)
        reporter.advance("index", 1, len(drives), "drives")
        return entry

    with ThreadPoolExecutor(_READERS, thread_name_prefix="index") as pool:
        return list(pool.map(one, drives))


def write_index(site: Path, output: str, entries: Sequence[Entry], *, whole: bool, city: bool = False) -> None:
    """Write drives.json, which index.html shows: these entries, and the reports of other outputs in the site.

    whole: the entries are of all drives of the output; else entries of its other drives are kept; city: whether the
    site has a page of the city.
    """
    shown = without_credentials(storage.absolute(output))
    known = {str(entry["id"]): entry for entry in _stored(site, None if whole else shown)}
    known |= {str(entry["id"]): entry for entry in entries}
    data = {"output": shown, "drives": [known[name] for name in sorted(known)], "city": city}
    storage.write_bytes_atomically(
        str(site / "drives.json"), json.dumps(visible_values(data), separators=(",", ":")).encode()
    )


def has_report(site: Path, drive_id: str, published_at: str) -> bool:
    """Whether the site's report of a drive was made from the result that was published at this time."""
    signature = storage.read_signature(str(site / "drives" / drive_id), REPORT_SIGNATURE, REPORT)
    return signature is not None and signature.get("published_at") == published_at


def _entry(output: str, drive_id: str, site: Path, images_from: str | None) -> Entry:
    folder = site / "drives" / drive_id
    report = f"drives/{drive_id}/index.html" if (folder / "index.html").is_file() else None
    try:
        drive = open_drive(output, drive_id, images_from=images_from)
        kept = _kept(site, drive)
        entry = kept if kept is not None else _made(drive, site)
    except PipelineError as error:
        return {"id": drive_id, "verdict": "unreadable", "error": " ".join(str(error).split()), "report": report}
    if (folder / "thumb.jpg").is_file():
        entry["thumb"] = f"drives/{drive_id}/thumb.jpg"
    return {**entry, "report": report}


def _made(drive: PublishedDrive, site: Path) -> Entry:
    view, manifest = DriveView.of(drive), drive.manifest
    entry = {
        "version": ENTRY_VERSION,
        "id": manifest.drive_id,
        "identity": manifest.identity,
        "published_at": manifest.published_at,
        "verdict": view.verdict,
        "frames": manifest.counts.frames,
        "chunks": manifest.counts.chunks,
        "points": manifest.counts.points,
        "loops": manifest.counts.loops,
        "loops_accepted": manifest.counts.loops_accepted,
        "length": round(view.length, 3),
        "unit": "m" if view.is_metric else "units",
        "place": _place(view),
        "seconds": round(sum(float(s) for s in manifest.timings.values()), 1),
        "path": _sketch(view),
        "thumb": _thumb(drive, site),
    }
    place = site / "entries" / f"{manifest.drive_id}.json"
    storage.write_bytes_atomically(str(place), json.dumps(entry).encode())
    return entry


def _kept(site: Path, drive: PublishedDrive) -> Entry | None:
    """The stored entry of this result; None where there is none."""
    try:
        entry: Entry = json.loads((site / "entries" / f"{drive.manifest.drive_id}.json").read_bytes())
    except (OSError, ValueError):
        return None
    now = [ENTRY_VERSION, drive.manifest.drive_id, drive.manifest.identity, drive.manifest.published_at]
    kept = (
        isinstance(entry, dict) and [entry.get(name) for name in ("version", "id", "identity", "published_at")] == now
    )
    return entry if kept else None


def _sketch(view: DriveView) -> list[list[int]]:
    """The path from above in a square of 0 ... 100."""
    if not len(view.path):
        return []
    points = view.on_map(view.path)[spread(len(view.path), _SKETCH_POINTS)]
    low, span = points.min(0), max(float(np.ptp(points, axis=0).max()), 1e-9)
    centred = (points - low) / span * 100 + (1 - np.ptp(points, axis=0) / span) * 50
    return [[round(float(x)), round(float(y))] for x, y in centred]


def _place(view: DriveView) -> list[list[float]] | None:
    """The path of a georeferenced drive as (longitude, latitude), for the map of all drives; None for other drives."""
    origin = view.drive.origin
    if origin is None or not len(view.path):
        return None
    points = view.path[spread(len(view.path), _SKETCH_POINTS)]
    latitude, longitude, _ = geodetic_from_enu(points, origin)
    return [[round(x, 7), round(y, 7)] for x, y in zip(longitude.tolist(), latitude.tolist(), strict=True)]


def _thumb(drive: PublishedDrive, site: Path) -> str | None:
    """Write a thumbnail of the middle frame; None where the frame cannot be read."""
    frame = drive.manifest.counts.frames // 2
    for _, image in read_frames(drive, [frame]):
        if not isinstance(image, str):
            folder = site / "thumbs"
            folder.mkdir(parents=True, exist_ok=True)
            save_jpeg(image, folder / f"{drive.manifest.drive_id}.jpg", _THUMB_WIDTH)
            return f"thumbs/{drive.manifest.drive_id}.jpg"
    return None


def _stored(site: Path, output: str | None) -> list[Entry]:
    """The stored entries: all of them where they are of this output, else those that have a report in the site."""
    try:
        data = json.loads((site / "drives.json").read_bytes())
        drives: list[Entry] = data["drives"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if data.get("output") == output:
        return drives
    return [entry for entry in drives if (site / "drives" / str(entry.get("id")) / "index.html").is_file()]


def _is_there(output: str, name: str) -> bool:
    try:
        return is_published(output, storage.check_drive_id(name))
    except StorageError:
        raise
    except PipelineError:  # damaged, or of a newer schema: it gets an entry that says so
        return storage.exists(storage.join(output, name, "manifest.json"))

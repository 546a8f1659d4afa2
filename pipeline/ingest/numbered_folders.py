"""Drives in several numbered folders: frames split over folders, and the one-minute segments of comma2k19.

000/000000.png ... 001/001000.png: frames of one drive; the numbers continue from folder to folder. 3/video.hevc,
4/video.hevc: comma2k19's segments of one minute; ROUTE--3/fcamera.hevc: openpilot's. Folders of separate drives are
often numbered too, so folders that do not fit exactly are not joined.
"""

from __future__ import annotations

import io
import itertools
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import storage
from pipeline.ingest.frame_series import natural_key
from pipeline.ingest.preprocess import SUFFIXES
from pipeline.storage import Listing, NotFoundError, StoredFile

_NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>\d+)")
_DCIM = re.compile(r"(?P<number>\d{3})(?P<before>[A-Z0-9_]{5})")  # 100GOPRO, 101_PANA: by the DCF standard
_FRAME = re.compile(r"(?P<before>.*?)(?P<number>\d+)(?P<after>\D*)")
_FEWEST = 2  # least number of frames of a folder that another one continues
_MOST_STEPS = 10  # from the last frame of a folder to the first of the next: a few may be missing
_DENSE = 0.8  # least share of the numbers between a folder's first and last that exist
COMMA_CLIPS = ("fcamera.hevc", "video.hevc")
"""The road camera's file in a segment of openpilot and of comma2k19."""
_TIMES = ("global_pose", "frame_times")  # comma2k19: seconds of each frame, as NumPy stores them
_MOST_TIMES_BYTES = 1 << 20


@dataclass(frozen=True)
class FolderRun:
    """Folders that hold one drive: frames (images), or a clip each (clip: its name)."""

    folders: tuple[str, ...]
    clip: str | None = None


def numbered(folders: Sequence[str]) -> list[tuple[str, ...]]:
    """Folders whose names differ in a number at their end, or are a camera's (100GOPRO), in its order, as runs of
    consecutive numbers."""
    series: dict[str, list[tuple[int, str]]] = {}
    for name in folders:
        found = _NUMBERED.fullmatch(name) or _DCIM.fullmatch(name)
        if found is not None:
            series.setdefault(found["before"], []).append((int(found["number"]), name))
    runs = []
    for members in series.values():
        members.sort()
        run = [members[0]]
        for one in members[1:]:
            if one[0] != run[-1][0] + 1:
                runs.append(run)
                run = []
            run.append(one)
        runs.append(run)
    return [tuple(name for _, name in run) for run in runs]


def split_frames(uri: str, folders: Sequence[str]) -> Listing | None:
    """The frames of a drive that is split over all these folders below `uri`, names with their folders; None where the
    folders are anything else. Folders are listed until one does not fit. Raises StorageError."""
    runs = numbered(folders)
    if len(runs) != 1 or len(runs[0]) < 2:
        return None
    files: list[StoredFile] = []
    before: _Part | None = None
    for folder in runs[0]:
        try:
            here = storage.list_files(storage.join(uri, folder))
        except NotFoundError:
            return None
        part = _part_of(here)
        if part is None or (before is not None and not before.goes_on(part)):
            return None
        before = part
        files += (StoredFile("", f"{folder}/{file.name}", file.size, file.etag) for file in here if _is_image(file))
    return _listing(uri, files)


def comma_runs(uri: str, folders: Sequence[str]) -> list[FolderRun]:
    """Runs of comma2k19's or openpilot's segments among the folders below `uri`; an empty list without any. The first
    folder of each run is listed. Raises StorageError."""
    found = []
    for run in numbered(folders):
        try:
            names = storage.list_files(storage.join(uri, run[0])).names
        except NotFoundError:
            continue
        clip = next((name for name in COMMA_CLIPS if name in names), None)
        if clip is not None:
            found.append(FolderRun(run, clip))
    return sorted(found, key=lambda run: natural_key(run.folders[0]))


def comma_range(name: str) -> tuple[str, str] | None:
    """The first and the last segment of FIRST..LAST; None for other names."""
    first, found, last = name.partition("..")
    ends = _NUMBERED.fullmatch(first), _NUMBERED.fullmatch(last)
    if not found or ends[0] is None or ends[1] is None or ends[0]["before"] != ends[1]["before"]:
        return None
    return first, last


def comma_files(uri: str, run: FolderRun) -> tuple[Listing, list[list[int] | None]]:
    """The clips of a run of segments, names with their folders, and the times of each clip's frames in nanoseconds
    (None where it has none). Raises StorageError."""
    assert run.clip is not None
    files: list[StoredFile] = []
    times = []
    for folder in run.folders:
        try:
            file = storage.stored_file(storage.join(uri, folder, run.clip))
        except NotFoundError:
            continue  # a segment without this camera: a gap in time
        files.append(StoredFile("", f"{folder}/{run.clip}", file.size, file.etag))
        times.append(_frame_times(storage.join(uri, folder, *_TIMES)))
    return _listing(uri, files), times


def _listing(uri: str, files: Sequence[StoredFile]) -> Listing:
    return Listing(uri, [file.name for file in files], [file.size for file in files], [file.etag for file in files])


def _frame_times(place: str) -> list[int] | None:
    try:
        data = storage.read_bytes(place, limit=_MOST_TIMES_BYTES)
        seconds = np.asarray(np.load(io.BytesIO(data), allow_pickle=False), np.float64).reshape(-1)
    except (NotFoundError, ValueError, EOFError, OSError):
        return None
    if not len(seconds) or not np.isfinite(seconds).all() or (np.diff(seconds) <= 0).any() or seconds[-1] > 9e9:
        return None
    return [int(time) for time in np.round(seconds * 1e9).astype(np.int64)]


@dataclass(frozen=True)
class _Part:
    """The frames of one folder: the text around their numbers; first, last and step of the numbers; their count."""

    around: tuple[str, str]
    first: int
    last: int
    step: int
    count: int

    def goes_on(self, after: _Part) -> bool:
        between = (after.first - self.last) / self.step
        return self.count >= _FEWEST and self.around == after.around and 1 <= between <= _MOST_STEPS


def _part_of(files: Listing) -> _Part | None:
    """The frames of a folder; None where they are not counted by one number, almost without gaps."""
    found = [_FRAME.fullmatch(name.rpartition(".")[0]) for name in files.names if _is_name(name)]
    around = {(one["before"], one["after"]) for one in found if one is not None}
    if not found or None in found or len(around) != 1:
        return None
    numbers = sorted(int(one["number"]) for one in found if one is not None)
    step = statistics.median_low([b - a for a, b in itertools.pairwise(numbers)] or [1])
    if step < 1 or len(numbers) < _DENSE * ((numbers[-1] - numbers[0]) / step + 1):
        return None
    return _Part(around.pop(), numbers[0], numbers[-1], step, len(numbers))


def _is_name(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def _is_image(file: StoredFile) -> bool:
    return _is_name(file.name)

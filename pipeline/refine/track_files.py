"""Tracks in the drive's staging folder: one file for each decoded segment, later numbered through the whole drive.

The task that decodes a segment makes its tracks, so they end at the segment's borders. The file also holds the
segment's first and last picture. With these `link_segments` continues tracks from one segment to the next without
reading a frame again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.refine.tracks import LONG_SIDE, Picture, Tracks, follow, track_pictures

TRACKS_FOLDER = "tracks"
_SAME = 1.0  # pixels of the tracked picture: tracks of two segments that are nearer to each other are one corner


@dataclass(frozen=True)
class PictureTracker:
    """Base of the trackers, which work on the pictures of a segment in the task that decodes them. folder: path or URI
    of the drive's tracks."""

    folder: str

    @property
    def long_side(self) -> int:
        """Largest number of pixels of a picture's long side."""
        return LONG_SIDE

    def picture(self, grey: NDArray[np.uint8]) -> Picture:
        """The part of a decoded grey frame (h, w) that is kept until its segment is complete."""
        return Picture.of(grey)


class SegmentTracker(PictureTracker):
    """Follows corners through the frames of a segment."""

    def segment_done(self, first_frame: int, pictures: Sequence[Picture | None]) -> None:
        """Track through a segment's pictures (None: a bad frame) and stage the tracks. Raises StorageError."""
        cv2.setNumThreads(1)  # decoding already runs in one process a core
        known = [i for i, picture in enumerate(pictures) if picture is not None]
        ends = [(first_frame + i, pictures[i]) for i in (known[:1] + known[-1:])]
        seen: list[dict[str, object]] = []
        metadata: dict[str, object] = {"first": first_frame, "stop": first_frame + len(pictures)}
        binary: dict[bytes, bytes] = {}
        for number, (frame, picture) in enumerate(ends):
            assert picture is not None
            seen.append({"frame": frame, "shape": picture.pixels.shape, "scale": picture.scale})
            binary[f"picture{number}".encode()] = picture.pixels.tobytes()
        table = _table(track_pictures(pictures, first_frame))
        table = table.replace_schema_metadata({b"segment": json.dumps({**metadata, "ends": seen}).encode(), **binary})
        name = f"segment-{first_frame:07d}-{first_frame + len(pictures):07d}.arrow"
        write_table(storage.join(self.folder, name), table)


@dataclass(frozen=True, eq=False)
class Segment:
    """Tracks of frames first ... stop - 1. ends: number and picture of the first and of the last good frame."""

    first: int
    stop: int
    tracks: Tracks
    ends: tuple[tuple[int, Picture], ...]


def link_segments(folder: str) -> int:
    """Number the tracks through the whole drive and write them again, one file for each segment.

    An earlier attempt at the drive may have left segments with other borders. The smallest set of segments that covers
    every frame is used. Returns the number of observations. Raises StorageError, and DriveError if a file is damaged.
    """
    born, before, count = 0, None, 0
    written = []
    for name in _covering(folder):
        segment = _read_segment(storage.join(folder, name))
        tracks, extra, born = _numbered(segment, before, born)
        before = Segment(segment.first, segment.stop, tracks, segment.ends)
        write_linked(folder, segment.first, Tracks.sorted(*_together(tracks, extra)))
        written.append(_linked_name(segment.first))
        count += len(tracks)
    stale = [name for name in staged_names(folder, "linked-") if name not in written]
    if stale:
        storage.remove_below(folder, stale)
    return count


def _covering(folder: str) -> list[str]:
    """Names of the segments that cover all frames. Of those that begin in the covered part, the one that ends last is
    taken each time."""
    names = staged_names(folder, "segment-")
    chosen: list[str] = []
    covered = 0
    while names:
        begun = [name for name in names if _range_of(name)[0] <= covered] or names[:1]
        best = max(begun, key=lambda name: _range_of(name)[1])
        if _range_of(best)[1] > covered:
            chosen.append(best)
            covered = _range_of(best)[1]
        names = [name for name in names if name not in begun]
    return chosen


def write_linked(folder: str, first_frame: int, tracks: Tracks) -> None:
    """Stage a segment's tracks, numbered through the drive. Raises StorageError."""
    write_table(storage.join(folder, _linked_name(first_frame)), _table(tracks))


class DriveTracks:
    """Linked tracks of a drive. Segments are read when they are needed; the last twelve are kept in memory."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._names = staged_names(folder, "linked-")
        self._first = [_range_of(name)[0] for name in self._names]
        self._held: dict[str, Tracks] = {}

    def __len__(self) -> int:
        return len(self._names)

    def of(self, first: int, stop: int) -> Tracks:
        """All observations in frames first ... stop - 1. Raises StorageError, and DriveError if a file is damaged."""
        parts = []
        for number, (name, begin) in enumerate(zip(self._names, self._first, strict=True)):
            following = self._first[number + 1] if number + 1 < len(self._first) else np.inf
            if begin < stop and following + 1 > first:  # a segment's tracks include the next segment's first frame
                parts.append(self._read(name))
        if not parts:
            return Tracks.none()
        track, frame, xy = _together(*parts)
        inside = (frame >= first) & (frame < stop)
        rows = Tracks.sorted(track[inside], frame[inside], xy[inside])
        new = np.ones(len(rows), np.bool_)
        new[1:] = (np.diff(rows.track) != 0) | (np.diff(rows.frame) != 0)
        return rows.select(new)

    def _read(self, name: str) -> Tracks:
        if name not in self._held:
            while len(self._held) >= 12:
                del self._held[next(iter(self._held))]
            self._held[name] = _rows(read_table(storage.join(self._folder, name)))
        return self._held[name]


def _numbered(segment: Segment, before: Segment | None, born: int) -> tuple[Tracks, Tracks, int]:
    """Tracks of a segment with the drive's numbers; further observations of its first frame, which belong to tracks of
    the segment before; the next free number."""
    numbers, of = np.unique(segment.tracks.track, return_inverse=True)
    given = born + np.arange(len(numbers))
    born += len(numbers)
    if before is None or not before.ends or not segment.ends or not len(before.tracks):
        tracks = Tracks(given[of] if len(of) else segment.tracks.track, segment.tracks.frame, segment.tracks.xy)
        return tracks, Tracks.none(), born
    entry, picture = segment.ends[0]
    if before.stop > entry:  # segments of two ranks overlap: the segment before contains this frame
        here = before.tracks.frame == entry
        live, places = before.tracks.track[here], before.tracks.xy[here]
    else:
        leave, last = before.ends[-1]
        here = before.tracks.frame == leave
        live, places = before.tracks.track[here], before.tracks.xy[here]
        places, good = follow(last, picture, places)
        live, places = live[good], places[good]
    xy = segment.tracks.xy.copy()
    mine = np.flatnonzero(segment.tracks.frame == entry)
    taken = np.ones(len(live), np.bool_)
    if len(live) and len(mine):
        for row, nearest, apart in _matches(xy[mine], places, _SAME * max(picture.scale)):
            number = of[mine[row]]
            given[number] = live[nearest]
            xy[of == number] += apart
            taken[nearest] = False
    tracks = Tracks.sorted(given[of], segment.tracks.frame, xy)
    left = Tracks(live[taken], np.full(int(taken.sum()), entry), places[taken])
    return tracks, left, born


def _matches(
    mine: NDArray[np.float64], theirs: NDArray[np.float64], limit: float
) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
    """Pairs of points of `mine` (n, 2) and `theirs` (m, 2) that are each other's nearest and less than `limit` apart:
    row in mine, row in theirs, theirs minus mine (2,)."""
    distance = np.linalg.norm(mine[:, None] - theirs[None], axis=2)
    nearest, back = distance.argmin(1), distance.argmin(0)
    for row, column in enumerate(nearest):
        if back[column] == row and distance[row, column] < limit:
            yield row, int(column), theirs[column] - mine[row]


def _together(*parts: Tracks) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    return (
        np.concatenate([part.track for part in parts]),
        np.concatenate([part.frame for part in parts]),
        np.concatenate([part.xy for part in parts]),
    )


def staged_names(folder: str, prefix: str) -> list[str]:
    """Names of the staged Arrow files that begin with `prefix`, sorted; none if the folder does not exist. Raises
    StorageError."""
    if not storage.exists(folder):
        return []
    names = [file.name for file in storage.list_files(folder)]
    return sorted(name for name in names if name.startswith(prefix) and name.endswith(".arrow"))


def _linked_name(first_frame: int) -> str:
    return f"linked-{first_frame:07d}.arrow"


def _range_of(name: str) -> tuple[int, int]:
    """First frame, and the frame after the last one if the name has it (else the first frame again)."""
    numbers = name.split(".")[0].split("-")[1:]
    return int(numbers[0]), int(numbers[-1])


def _table(tracks: Tracks) -> pa.Table:
    return pa.table(
        {
            "track": pa.array(tracks.track, pa.int64()),
            "frame": pa.array(tracks.frame, pa.int32()),
            "x": pa.array(tracks.xy[:, 0].astype(np.float32)),
            "y": pa.array(tracks.xy[:, 1].astype(np.float32)),
        }
    )


def _rows(table: pa.Table) -> Tracks:
    xy = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], 1).astype(np.float64)
    return Tracks(table["track"].to_numpy().astype(np.int64), table["frame"].to_numpy().astype(np.int64), xy)


def write_table(uri: str, table: pa.Table) -> None:
    """Stage a table as an Arrow file, which is visible only when it is complete. Raises StorageError."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    storage.write_bytes_atomically(uri, sink.getvalue().to_pybytes())


def read_table(uri: str) -> pa.Table:
    """Read a staged table. Raises StorageError, and DriveError if the file is damaged."""
    try:
        return pa.ipc.open_file(storage.read_bytes(uri)).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise DriveError(f"{uri} holds no tracks ({error}); run the drive again") from error


def _read_segment(uri: str) -> Segment:
    table = read_table(uri)
    try:
        facts = json.loads(table.schema.metadata[b"segment"])
        ends = tuple(
            (end["frame"], Picture(_pixels(table, number, end["shape"]), tuple(end["scale"])))
            for number, end in enumerate(facts["ends"])
        )
        return Segment(facts["first"], facts["stop"], _rows(table), ends)
    except (KeyError, TypeError, ValueError) as error:
        raise DriveError(f"{uri} holds no segment's tracks ({error}); run the drive again") from error


def _pixels(table: pa.Table, number: int, shape: Sequence[int]) -> NDArray[np.uint8]:
    return np.frombuffer(table.schema.metadata[f"picture{number}".encode()], np.uint8).reshape(shape)

"""Tracks of a drive: the tracks of its segments, followed over the borders between them and numbered through.

The task that decodes a segment makes its tracks, so they end at the segment's borders. `link_segments` follows them on
with what was staged beside them (segment_files.py, border.py), without reading a frame again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.refine.border import REACH, Border, follow_over, same_corners
from pipeline.refine.segment_files import (
    StagedSegment,
    range_of,
    read_table,
    staged_names,
    tracks_of_table,
    tracks_table,
    write_table,
)
from pipeline.refine.tracks import Tracks, room_of, together

_AT_ONCE = 64  # borders whose results are in memory together

Borders = Callable[[Callable[[StagedSegment, StagedSegment], Border], Sequence[tuple[object, ...]]], list[Border]]


def one_by_one(
    work: Callable[[StagedSegment, StagedSegment], Border], of: Sequence[tuple[object, ...]]
) -> list[Border]:
    """The results of work(*arguments) in this process."""
    return [work(*pair) for pair in of]  # type: ignore[arg-type]


def link_segments(folder: str, run: Borders = one_by_one) -> int:
    """Follow tracks over the borders of segments, number them through the whole drive, and write them again, one file
    for each segment.

    An earlier attempt at the drive may have left segments with other borders. The smallest set of segments that covers
    every frame is used. run: gives the results of work(*arguments), in order, wherever the work runs. Returns the
    number of observations. Raises StorageError, and DriveError if a file is damaged.
    """
    segments = _covering(folder)
    count, born, written = 0, 0, []
    before: _Numbered | None = None
    for begin in range(0, len(segments), _AT_ONCE):
        part = segments[begin : begin + _AT_ONCE]
        borders = run(border_between, list(pairwise(segments[max(begin - 1, 0) : begin + _AT_ONCE])))
        for segment, border in zip(part, borders if begin else [Border.none(), *borders], strict=True):
            onward = Tracks.none()
            if before is not None:
                before, born = before.with_tracks(border.onward, born)
                onward = before.named(border.onward)
                earlier = onward.frame < segment.first
                count += _write(folder, before, onward.select(earlier))
                onward = onward.select(~earlier)
            before, born = _numbered(segment, before, border, onward, born)
            written.append(_linked_name(segment.first))
    if before is not None:
        count += _write(folder, before, Tracks.none())
    stale = [name for name in staged_names(folder, "linked-") if name not in written]
    if stale:
        storage.remove_below(folder, stale)
    return count


def border_between(before: StagedSegment, segment: StagedSegment) -> Border:
    """What goes over the border of two staged segments. Raises StorageError, and DriveError if a file is damaged."""
    cv2.setNumThreads(1)
    pictures = segment.pictures()
    if not pictures:
        return Border.none()
    entry, picture = pictures[0]
    if before.stop > entry:  # segments of two ranks overlap: tracks of both are known in the common frames
        known = before.tracks()
        common = [frame for frame, _ in pictures if frame < before.stop]
        return same_corners(
            known.select(known.frame >= entry),
            segment.tracks(),
            common,
            max(picture.scale),
            room_of(picture.pixels) * np.array(picture.scale),
        )
    live = before.live()
    return Border.none() if live is None else follow_over(live, pictures[:REACH], segment.tracks())


@dataclass(frozen=True, eq=False)
class _Numbered:
    """A segment's tracks with the drive's numbers.

    first: its first frame; rows: observations in its frames; given (n,): the drive's number of each of its tracks;
    moved (n, 2): by which a track was moved, in source pixels, because it goes on with one of the segment before.
    """

    first: int
    rows: Tracks
    given: NDArray[np.int64]
    moved: NDArray[np.float64]

    def with_tracks(self, tracks: Tracks, born: int) -> tuple[_Numbered, int]:
        """Numbers also for tracks that only the last frame of the segment sees; the next free number after them."""
        fresh = max(_count(tracks) - len(self.given), 0)
        given = np.concatenate([self.given, born + np.arange(fresh)])
        return _Numbered(self.first, self.rows, given, np.pad(self.moved, ((0, fresh), (0, 0)))), born + fresh

    def named(self, tracks: Tracks) -> Tracks:
        """Observations of this segment's tracks with the drive's numbers."""
        return Tracks.sorted(self.given[tracks.track], tracks.frame, tracks.xy + self.moved[tracks.track])


def _numbered(
    segment: StagedSegment, before: _Numbered | None, border: Border, onward: Tracks, born: int
) -> tuple[_Numbered, int]:
    """A segment's tracks with the drive's numbers, and the next free number. Of a track that begins where one of
    the segment before is seen, only later observations are used. onward: further observations in the segment's frames,
    with the drive's numbers."""
    tracks = segment.tracks()
    given = born + np.arange(_count(tracks))
    moved, until = np.zeros((len(given), 2)), np.full(len(given), -1)
    if before is not None:
        given[border.second] = before.given[border.first]
        moved[border.second] = before.moved[border.first] + border.apart
        until[border.late] = border.until
    born += len(given)
    numbered = _Numbered(segment.first, Tracks.none(), given, moved)
    rows = numbered.named(tracks.select(tracks.frame > until[tracks.track]))
    return _Numbered(segment.first, Tracks.sorted(*together(rows, onward)), given, moved), born


def _count(tracks: Tracks) -> int:
    """Tracks of a segment are numbered from 0."""
    return int(tracks.track.max()) + 1 if len(tracks) else 0


def _write(folder: str, segment: _Numbered, more: Tracks) -> int:
    rows = Tracks.sorted(*together(segment.rows, more))
    write_linked(folder, segment.first, rows)
    return len(rows)


def _covering(folder: str) -> list[StagedSegment]:
    """The segments that cover all frames. Of those that begin in the covered part, the one that ends last is taken each
    time."""
    names = staged_names(folder, "segment-")
    chosen: list[str] = []
    covered = 0
    while names:
        begun = [name for name in names if range_of(name)[0] <= covered] or names[:1]
        best = max(begun, key=lambda name: range_of(name)[1])
        if range_of(best)[1] > covered:
            chosen.append(best)
            covered = range_of(best)[1]
        names = [name for name in names if name not in begun]
    return [StagedSegment(folder, name) for name in chosen]


def write_linked(folder: str, first_frame: int, tracks: Tracks) -> None:
    """Stage a segment's tracks, numbered through the drive. Raises StorageError."""
    write_table(storage.join(folder, _linked_name(first_frame)), tracks_table(tracks))


class DriveTracks:
    """Linked tracks of a drive. Segments are read when they are needed; the last twelve are kept in memory."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._names = staged_names(folder, "linked-")
        self._first = [range_of(name)[0] for name in self._names]
        self._held: dict[str, Tracks] = {}

    def __len__(self) -> int:
        return len(self._names)

    def of(self, first: int, stop: int) -> Tracks:
        """All observations in frames first ... stop - 1. Raises StorageError, and DriveError if a file is damaged."""
        parts = []
        for number, (name, begin) in enumerate(zip(self._names, self._first, strict=True)):
            following = self._first[number + 1] if number + 1 < len(self._first) else np.inf
            if begin < stop and following > first:
                parts.append(self._read(name))
        if not parts:
            return Tracks.none()
        track, frame, xy = together(*parts)
        inside = (frame >= first) & (frame < stop)
        rows = Tracks.sorted(track[inside], frame[inside], xy[inside])
        new = np.ones(len(rows), np.bool_)
        new[1:] = (np.diff(rows.track) != 0) | (np.diff(rows.frame) != 0)
        return rows.select(new)

    def _read(self, name: str) -> Tracks:
        if name not in self._held:
            while len(self._held) >= 12:
                del self._held[next(iter(self._held))]
            self._held[name] = tracks_of_table(read_table(storage.join(self._folder, name)))
        return self._held[name]


def _linked_name(first_frame: int) -> str:
    return f"linked-{first_frame:07d}.arrow"

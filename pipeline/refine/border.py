"""Tracks over the border of two segments, whose tracks were made separately.

The tracks that live at the end of the first segment are followed on through the second one, with their own templates,
as they would be without a border. The second segment has found some of their corners again. A followed track and one of
the second segment are one corner where they stay together in several frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.refine.tracks import LiveTracks, Picture, Tracks, room_of, together

REACH = 30  # pictures into which tracks are followed: one of twenty that reach the first one lives longer (KITTI)
_AGREE = 3  # frames in which two tracks are compared
# Pixels of the tracked picture: two tracks of one corner are nearer to each other, and their distance changes by less.
_SAME, _STEADY = 1.0, 0.3


@dataclass(frozen=True, eq=False)
class Border:
    """What goes over a border.

    onward: observations of the first segment's tracks, with its numbers: those in the second segment's frames, and of
    tracks that began in the first segment's last good frame the one in this frame; first, second (m,): numbers of the
    tracks that are one corner, in each segment; apart (m, 2): mean position of the first one's track minus that of the
    second one's, in source pixels; late, until (k,): tracks of the second segment that begin beside followed ones,
    where without the border no corner is looked for, and the last frame that shows one of these. They are used after
    it.
    """

    onward: Tracks
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    apart: NDArray[np.float64]
    late: NDArray[np.int64]
    until: NDArray[np.int64]

    @staticmethod
    def none() -> Border:
        """Nothing goes over the border."""
        nobody = np.zeros(0, np.int64)
        return Border(Tracks.none(), nobody, nobody, np.zeros((0, 2)), nobody, nobody)


def follow_over(live: LiveTracks, pictures: Sequence[tuple[int, Picture]], second: Tracks) -> Border:
    """Follow tracks on as long as they live.

    Args:
        live: tracks of the first segment at its end.
        pictures: the second segment's first good frames and their numbers, in time order; at least one.
        second: the second segment's own tracks.
    """
    cv2.setRNGSeed(0)
    seen = [live.rows]
    for frame, picture in pictures:
        live = live.next(frame, picture)
        seen.append(live.rows)
    onward = Tracks.sorted(*together(*seen)).at_least(2)
    compared = [frame for frame, _ in pictures[:_AGREE]]
    room = room_of(pictures[0][1].pixels) * np.array(pictures[0][1].scale)
    return same_corners(onward, second, compared, max(pictures[0][1].scale), room)


def same_corners(
    onward: Tracks, second: Tracks, frames: Sequence[int], scale: float, room: NDArray[np.float64]
) -> Border:
    """The border of two segments whose tracks are known in common frames.

    Args:
        onward: observations of the first segment's tracks.
        second: the second segment's tracks.
        frames: the common frames in which tracks are compared, at least one. Two tracks are one corner if they are each
            other's nearest in the first of these, and near in all.
        scale: source pixels in a pixel of the tracked picture.
        room: (2,) source pixels in x and y within which no corner begins beside another one.
    """
    ours, theirs = _in_frame(onward, frames[0]), _in_frame(second, frames[0])
    if not len(ours) or not len(theirs):
        return replace(Border.none(), onward=onward)
    distance = np.linalg.norm(ours.xy[:, None] - theirs.xy[None], axis=2)
    nearest = distance.argmin(1)
    mutual = distance.argmin(0)[nearest] == np.arange(len(ours))
    first, other = ours.track[mutual], theirs.track[nearest[mutual]]
    apart = np.stack([_places(onward, first, frame) - _places(second, other, frame) for frame in frames])
    mean = apart.mean(0)  # NaN where one of the two is not seen in all frames
    near = np.linalg.norm(apart, axis=2).max(0) < _SAME * scale
    near &= np.linalg.norm(apart - mean, axis=2).max(0) < _STEADY * scale
    until = onward.frame[np.searchsorted(onward.track, ours.track, side="right") - 1]
    beside = (np.abs(ours.xy[:, None] - theirs.xy[None]) <= room).all(2)
    until = np.where(beside, until[:, None], -1).max(0)
    late = until >= 0
    return Border(onward, first[near], other[near], mean[near], theirs.track[late], until[late])


def _in_frame(tracks: Tracks, frame: int) -> Tracks:
    return tracks.select(tracks.frame == frame)


def _places(tracks: Tracks, numbers: NDArray[np.int64], frame: int) -> NDArray[np.float64]:
    """Positions (n, 2) of tracks of these numbers (n,) in a frame; NaN where it does not show them."""
    here = _in_frame(tracks, frame)
    row = np.minimum(np.searchsorted(here.track, numbers), max(len(here) - 1, 0))
    places = np.full((len(numbers), 2), np.nan)
    if len(here):
        seen = here.track[row] == numbers
        places[seen] = here.xy[row[seen]]
    return places

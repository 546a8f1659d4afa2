"""Candidates between parts of a city that no link joins: frames whose side views show similar facades.

Place descriptors of forward pictures do not show that drives in opposite directions were in one street. Features of
side views (`side_views.py`) are pooled to one vector for each side of a frame (VLAD: Jegou et al. 2010); the right side
of one drive resembles the left side of the other. Each part of the city is sampled by its streets, not by its drives,
so the work depends on the length of the streets; and at most 4,000 frames are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.errors import PipelineError
from pipeline.fuse.between_parts import by_drive, most_alike, part_of
from pipeline.fuse.candidates import Candidate, Floats, Numbers, within_budget
from pipeline.fuse.facing_frames import reach_of
from pipeline.fuse.pictures import grey_picture
from pipeline.fuse.placement import Placement
from pipeline.fuse.pooled_features import learned, pooled_features
from pipeline.fuse.published_drives import SeenDrive, seen_again
from pipeline.fuse.sampled_streets import most_sampled, sampled
from pipeline.fuse.side_views import axes_of, look_aside
from pipeline.fuse.tasks import Tasks
from pipeline.publish import PublishedDrive

_OF_A_PLACE = 4  # frames of a place in one direction, each of another drive (drives differ in light)
_MOST_FRAMES = 4_000  # of all parts together
_WORDS = 64  # centres of descriptors
_LEARNED_FRAMES = 60  # from which centres are learned
_LEAST_ALIKE = 0.02  # least similarity, both sides together


def most_side_views(frames: Sequence[int]) -> int:
    """About how many frames `alike_facades` reads at most. frames: as in `most_sampled`."""
    return most_sampled(frames, _MOST_FRAMES)


def alike_facades(
    drives: Sequence[SeenDrive],
    placements: Sequence[Placement],
    metres: Mapping[str, float],
    leads: Sequence[Numbers],
    per_pair: int,
    budget: int,
    used: Mapping[int, int],
    tasks: Tasks | None = None,
) -> list[Candidate]:
    """Candidates in opposite directions between drives of different coordinate frames, most similar first.

    Args:
        drives: the drives. placements, metres, leads: as in `sampled`.
        per_pair: most candidates of a pair of drives.
        budget: most candidates of a drive, those that it has already (`used`) among them.
        tasks: that read frames; None: this process. A frame that cannot be read is not used.
    """
    if len({one.frame for one in placements}) < 2:
        return []
    seeing = {n for n, one in enumerate(drives) if reach_of(one) is not None}
    chosen = [one for one in sampled(placements, metres, leads, _OF_A_PLACE, _MOST_FRAMES) if one[0] in seeing]
    step = max(len(chosen) // _LEARNED_FRAMES, 1)
    words = learned(_descriptors(drives, chosen[::step]), _WORDS)
    if words is None:
        return []
    of = by_drive(chosen)
    if tasks is None:
        pooled = [pooled_sides(drives[n], places, words) for n, places in of.items()]
    else:
        pooled = tasks.mapped(pooled_in_task, [(drives[n].unread, places, words) for n, places in of.items()])
    rows = np.concatenate(pooled)
    drive, frame = np.array(chosen).T
    similar, part = alike_sides(rows[:, 0], rows[:, 1]), part_of(placements, drive)
    made = most_alike(similar, drive, frame, part, per_pair, _LEAST_ALIKE, "facades", True)
    return within_budget(made, budget, used)


def alike_sides(right: Floats, left: Floats) -> Floats:
    """The similarity (m, m) of frames that face each other: the right side of each with the left side of the other.
    right, left (m, K): pooled features."""
    similar = right @ left.T
    return np.asarray(similar + similar.T)


def pooled_sides(drive: SeenDrive, places: Sequence[int], words: Floats) -> Floats:
    """Pooled features (n, 2, K) of the right and left sides of frames `places`; zeros of one that cannot be read."""
    answer = np.zeros((len(places), 2, words.size), np.float32)
    for k, place in enumerate(places):
        picture = grey_picture(drive, place)
        if not isinstance(picture, str):
            seen = look_aside(*picture, axes_of(drive, place))
            answer[k] = [pooled_features(side.descriptor, words) for side in (seen.right, seen.left)]
    return answer


def pooled_in_task(opened: PublishedDrive, places: Sequence[int], words: Floats) -> Floats:
    """`pooled_sides` in a task. Zeros of a drive that cannot be read."""
    try:
        return pooled_sides(seen_again(opened), places, words)
    except PipelineError:
        return np.zeros((len(places), 2, words.size), np.float32)


def _descriptors(drives: Sequence[SeenDrive], chosen: Sequence[tuple[int, int]]) -> Floats:
    found = [np.zeros((0, 128), np.float32)]
    for n, place in chosen:
        picture = grey_picture(drives[n], place)
        if not isinstance(picture, str):
            seen = look_aside(*picture, axes_of(drives[n], place))
            found += [seen.right.descriptor, seen.left.descriptor]
    return np.concatenate(found)

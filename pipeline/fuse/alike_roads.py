"""Candidates between parts of a city that no link joins: frames whose charts of the road show similar features.

Whatever the directions of two drives are, both saw the road. Features of a chart (`on_ground.py`) turn with it, so what
is pooled of them (`pooled_features.py`) does not depend on the direction. All roads have much in common: the mean of
all charts is subtracted. Each part of the city is sampled by its streets, and at most 1,500 charts are made.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.errors import PipelineError
from pipeline.fuse.between_parts import by_drive, most_alike, part_of
from pipeline.fuse.candidates import GROUND, Candidate, Floats, Numbers, within_budget
from pipeline.fuse.common_ground import whole_charts
from pipeline.fuse.ground_chart import ground_chart
from pipeline.fuse.on_ground import look_down
from pipeline.fuse.placement import Placement
from pipeline.fuse.pooled_features import learned, pooled_features
from pipeline.fuse.published_drives import SeenDrive, seen_again
from pipeline.fuse.sampled_streets import most_sampled, sampled
from pipeline.fuse.spread_candidates import Ways
from pipeline.fuse.tasks import Tasks
from pipeline.publish import PublishedDrive

_OF_A_PLACE = 2  # charts of a place in one direction, each of another drive (drives differ in light)
_MOST_CHARTS = 1_500  # of all parts together
_WORDS = 256  # centres of descriptors
_LEARNED_CHARTS = 120  # at least, if there are so many, from which centres are learned
# Least similarity of two charts. In three cities half of the pairs less than 6 m apart had more than 0.04, 0.05 and
# 0.0, of those more than 30 m apart one in a thousand 0.013, 0.0 and -0.01.
_LEAST_ALIKE = 0.005


def most_charts(frames: Sequence[int]) -> int:
    """About how many charts `alike_roads` makes at most. frames: as in `most_sampled`."""
    return most_sampled(frames, _MOST_CHARTS)


def alike_roads(
    drives: Sequence[SeenDrive],
    placements: Sequence[Placement],
    metres: Mapping[str, float],
    leads: Sequence[Numbers],
    per_pair: int,
    budget: int,
    used: Mapping[int, int],
    tasks: Tasks | None = None,
) -> list[Candidate]:
    """Candidates by charts of the road between drives of different coordinate frames, most similar first.

    Args:
        drives: the drives. placements, metres, leads: as in `sampled`; leads of the reference camera.
        per_pair: most candidates of a pair of drives.
        budget: most candidates of a drive, those that it has already (`used`) among them.
        tasks: that make charts; None: this process. A frame without a chart is not used.
    """
    if len({one.frame for one in placements}) < 2:
        return []
    both = list(zip(placements, leads, strict=True))
    ways = Ways([one.city_from_camera[lead, :3, 3] / metres[one.frame] for one, lead in both], leads)
    seeing = [lead[whole_charts(way)] if len(lead) else lead for lead, way in zip(leads, ways.along, strict=True)]
    chosen = sampled(placements, metres, seeing, _OF_A_PLACE, _MOST_CHARTS)
    some, every = by_drive(chosen[:: max(len(chosen) // _LEARNED_CHARTS, 1)]), by_drive(chosen)
    if tasks is None:
        found = [described(drives[n], places) for n, places in some.items()]
    else:
        found = tasks.mapped(_described_in_task, [(drives[n].unread, places) for n, places in some.items()])
    words = learned(np.concatenate([np.zeros((0, 128), np.float32), *itertools.chain(*found)]), _WORDS)
    if words is None:
        return []
    if some == every:
        pooled = [_pooled(one, words) for one in found]
    elif tasks is None:
        pooled = [_pooled(described(drives[n], places), words) for n, places in every.items()]
    else:
        pooled = tasks.mapped(_pooled_in_task, [(drives[n].unread, places, words) for n, places in every.items()])
    rows = np.concatenate(pooled)
    drive, frame = np.array(chosen).T
    there = rows.any(1)
    if not there.any():
        return []
    rows, drive, frame = rows[there], drive[there], frame[there]
    part = part_of(placements, drive)
    made = most_alike(alike_charts(rows), drive, frame, part, per_pair, _LEAST_ALIKE, GROUND)
    return within_budget(made, budget, used)


def alike_charts(pooled: Floats) -> Floats:
    """The similarity (m, m) of charts with pooled features (m, K), without what all of them have in common."""
    rows = pooled - pooled.mean(0)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return np.asarray(rows @ rows.T)


def described(drive: SeenDrive, places: Sequence[int]) -> list[Floats]:
    """Descriptors (n, 128) of the charts of frames `places`; none of a frame without a chart."""
    charts = [ground_chart(drive, place) for place in places]
    return [np.zeros((0, 128), np.float32) if isinstance(one, str) else look_down(one).descriptor for one in charts]


def _described_in_task(opened: PublishedDrive, places: Sequence[int]) -> list[Floats]:
    try:
        return described(seen_again(opened), places)
    except PipelineError:
        return [np.zeros((0, 128), np.float32)] * len(places)


def _pooled_in_task(opened: PublishedDrive, places: Sequence[int], words: Floats) -> Floats:
    return _pooled(_described_in_task(opened, places), words)


def _pooled(charts: Sequence[Floats], words: Floats) -> Floats:
    return np.stack([pooled_features(one, words) for one in charts])

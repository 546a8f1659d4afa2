"""Candidates that a solution proposes: drives in one street, in the same and in other directions, and drives of parts
of the city that no link joins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.fuse.alike_facades import alike_facades, most_side_views
from pipeline.fuse.alike_roads import alike_roads, most_charts
from pipeline.fuse.candidates import GROUND, Candidate
from pipeline.fuse.city import PublishedCity
from pipeline.fuse.common_ground import common_ground
from pipeline.fuse.common_streets import common_streets
from pipeline.fuse.config import FuseConfig
from pipeline.fuse.evidence import Verified
from pipeline.fuse.facing_frames import facing_frames, reach_of
from pipeline.fuse.opposite import OPPOSITE, pair_of
from pipeline.fuse.placement import Placement
from pipeline.fuse.published_drives import FusibleDrive
from pipeline.fuse.tasks import Tasks

FACING = ("facades", "facing")
"""What proposes frames that face each other: `alike_facades` and `facing_frames`."""
_FACING_SHARE = 3  # a drive has one candidate in opposite directions for so many of --budget, in addition to those
_FACING_PER_PAIR = 2  # candidates of a pair of drives in opposite directions, by each of both
_GROUND_SHARE = 2  # a drive has one candidate by the road for so many of --budget, in addition to the others
_GROUND_PER_PAIR = 3  # candidates of a pair of drives by the road
# The same between parts of the city: few true ones join the parts, and then the others are proposed.
_ALIKE_SHARE, _ALIKE_PER_PAIR = 4, 2


def proposed(
    drives: Sequence[FusibleDrive],
    placements: Sequence[Placement],
    metres: Mapping[str, float],
    verified: Sequence[Verified],
    config: FuseConfig,
    apart: bool,
    tasks: Tasks | None,
) -> list[Candidate]:
    """New candidates. placements: of the drives in the solution; metres: city units in a metre, by name of the frame;
    verified: the verdicts so far; apart: also between drives in different frames, which takes reading pictures."""
    leads = [one.rig.reference for one in drives]
    told, linked = [one.candidate for one in verified], [one.link is not None for one in verified]
    made = common_streets(placements, metres, told, linked, config.per_pair, config.budget, leads)
    by_road = max(config.budget // _GROUND_SHARE, 1)
    made += common_ground(placements, metres, told, linked, _GROUND_PER_PAIR, by_road, leads)
    budget = max(config.budget // _FACING_SHARE, 1)
    reach = [reach_of(one) for one in drives]
    facing = facing_frames(placements, metres, told, reach, _FACING_PER_PAIR, budget, leads)
    if apart:
        used = Counter(n for one in made if one.by == GROUND for n in pair_of(one))
        most = max(config.budget // _ALIKE_SHARE, 1)
        made += alike_roads(drives, placements, metres, leads, _ALIKE_PER_PAIR, most, used, tasks)
        used = Counter(n for one in [*told, *facing] if one.opposite and one.by in FACING for n in pair_of(one))
        facing += alike_facades(drives, placements, metres, leads, _FACING_PER_PAIR, budget, used, tasks)
    known = {(one.first, one.first_frame, one.second, one.second_frame) for one in [*told, *made]}
    return made + [one for one in facing if (one.first, one.first_frame, one.second, one.second_frame) not in known]


def most_facing(drives: Sequence[FusibleDrive], candidates: Sequence[Candidate], budget: int) -> tuple[int, int]:
    """Before the solution: how many more candidates in opposite directions `proposed` makes at most, and of about how
    many frames it reads side views at most.

    Where positions tell which drives went in opposite directions, only these face each other; any other drive may face
    every drive. Side views are read only if some drive has no positions: otherwise all are in one frame. candidates:
    so far, those that an earlier solution proposed (`proposed_before`) among them; budget: as in FuseConfig.
    """
    seeing = [n for n, one in enumerate(drives) if reach_of(one) is not None]
    on_earth = {n for n in seeing if drives[n].opened.origin is not None}
    against = {pair_of(one) for one in candidates if one.opposite and one.by == "positions"}
    partners = Counter(n for pair in against if on_earth.issuperset(pair) for n in pair)
    used = Counter(n for one in candidates if one.by in FACING for n in pair_of(one))
    room = 0
    for n in seeing:
        others = len(seeing) - 1 if n not in on_earth else partners[n] + len(seeing) - len(on_earth)
        room += max(min(_FACING_PER_PAIR * others, max(budget // _FACING_SHARE, 1)) - used[n], 0)
    apart = len(seeing) > 1 and any(one.opened.origin is None for one in drives)
    return room // 2, most_side_views([len(drives[n].rig.reference) for n in seeing]) if apart else 0


def most_on_ground(drives: Sequence[FusibleDrive], candidates: Sequence[Candidate], budget: int) -> tuple[int, int]:
    """Before the solution: how many more candidates by charts of the road `proposed` makes at most, and about how many
    charts to find them. candidates, budget: as in `most_facing`."""
    count = len(drives)
    apart = count > 1 and any(one.opened.origin is None for one in drives)
    most = min(_GROUND_PER_PAIR * (count - 1), max(budget // _GROUND_SHARE, 1))
    most += min(_ALIKE_PER_PAIR * (count - 1), max(budget // _ALIKE_SHARE, 1)) if apart else 0
    used = Counter(n for one in candidates if one.by == GROUND for n in pair_of(one))
    pairs = sum(max(most - used[n], 0) for n in range(count)) // 2
    return pairs, most_charts([len(one.rig.reference) for one in drives]) if apart else 0


def proposed_before(
    city: PublishedCity, drives: Sequence[FusibleDrive], candidates: Sequence[Candidate]
) -> list[Candidate]:
    """Candidates that a version's solution proposed, between results that have not changed. So a solution that differs
    a little does not propose other frames beside them. Raises DriveError and StorageError where its table cannot be
    read."""
    keys = city.manifest.keys
    number = {drive.drive_id: n for n, drive in enumerate(drives) if keys.get(drive.drive_id) == drive.key}
    told = {(one.first, one.first_frame, one.second, one.second_frame) for one in candidates}
    made = []
    for row in city.links.filter(pc.is_in(city.links["by"], pa.array(["solution", GROUND, *FACING]))).to_pylist():
        # Pairs that were only reported have no frames to compare.
        reported = row["by"] == "solution" and OPPOSITE in row["reason"]
        if {row["first_drive"], row["second_drive"]} <= set(number) and not reported:
            ends = [number[row["first_drive"]], number[row["second_drive"]]]
            places = [
                int(drives[n].opened.cameras.places(np.array([row[f"{end}_frame"]]))[0])
                for n, end in zip(ends, ("first", "second"), strict=True)
            ]
            known = (ends[0], places[0], ends[1], places[1]) in told
            if not known and min(places) >= 0 and ends[0] != ends[1]:
                by, opposite = row["by"], row["by"] in FACING or OPPOSITE in row["reason"]
                made.append(Candidate(ends[0], places[0], ends[1], places[1], row["score"], by, opposite))
    return made

"""The plan of a run counts what opposite directions take at most."""

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.fuse.alike_facades import most_side_views
from pipeline.fuse.alike_roads import most_charts
from pipeline.fuse.candidates import GROUND, Candidate
from pipeline.fuse.plan import Plan
from pipeline.fuse.proposals import most_facing, most_on_ground

FRAMES = 150


def drive(wide=True, on_earth=False):
    """What the plan reads of a drive whose camera sees 45 degrees to the side, or 20."""
    focal = 320.0 if wide else 900.0
    cameras = SimpleNamespace(intrinsics=np.tile([focal, focal, 320.0, 160.0], (FRAMES, 1)))
    opened = SimpleNamespace(cameras=cameras, origin=(48.0, 11.0, 500.0) if on_earth else None)
    return SimpleNamespace(opened=opened, rig=SimpleNamespace(reference=np.arange(FRAMES)))


def against(a, b, by="positions"):
    return Candidate(a, 0, b, 0, 1.0, by, True)


def test_any_drive_without_positions_may_face_every_other_one_within_the_budget():
    assert most_facing([drive() for _ in range(3)], [], 30) == (2 * 3, 3 * 15)
    assert most_facing([drive() for _ in range(20)], [], 30)[0] == 20 * 10 // 2
    assert most_facing([drive() for _ in range(20)], [], 6)[0] == 20 * 2 // 2


def test_of_drives_on_earth_only_those_that_went_in_opposite_directions_face_each_other():
    drives = [drive(on_earth=True) for _ in range(4)]
    assert most_facing(drives, [], 30) == (0, 0)
    assert most_facing(drives, [against(0, 1), against(0, 2)], 30) == (4, 0)
    assert most_facing([*drives, drive()], [], 30) == (2 * 4, 5 * 15)


def test_narrow_cameras_are_not_counted_and_earlier_candidates_are_only_counted_once():
    assert most_facing([drive(), drive(wide=False)], [], 30) == (0, 0)
    assert most_facing([drive(), drive()], [against(0, 1, "facing")], 30)[0] == 1
    assert most_facing([drive(), drive()], [against(0, 1, "facades")] * 2, 30)[0] == 0


def test_side_views_and_charts_are_made_of_a_limited_number_of_frames():
    assert most_side_views([2_500] * 3) == 750 and most_side_views([2_500] * 2_000) == 4_000
    assert most_charts([2_500] * 3) == 750 and most_charts([2_500] * 2_000) == 1_500


def test_the_plan_says_what_opposite_directions_take_at_most():
    plan = Plan(3, 1, 20, 5, 9, 1_000, 10.0, 1e9, 1e6, facing=40, facing_known=2, side_views=100)
    assert plan.facing_core_seconds == pytest.approx(40 * 0.4 + 100 * 0.08)
    (line,) = [one for one in plan.lines() if "facing" in one]
    assert "at most 40 pairs" in line and "100 frames, 24 core seconds" in line and "2 more pairs" in line


def test_charts_of_the_road_are_counted():
    on_earth = [drive(on_earth=True) for _ in range(20)]
    assert (
        most_on_ground(on_earth[:3], [], 30) == (3 * 6 // 2, 0) and most_on_ground(on_earth, [], 30)[0] == 20 * 15 // 2
    )
    assert most_on_ground(on_earth[:2], [against(0, 1, GROUND)] * 2, 30) == (1, 0)
    assert most_on_ground(on_earth[:1], [], 30) == (0, 0)
    # drives whose place is not known may also be compared where their roads look alike, which takes more charts
    assert most_on_ground([drive() for _ in range(3)], [], 30) == (3 * (6 + 4) // 2, 3 * 15)
    plan = Plan(3, 1, 20, 5, 9, 1_000, 10.0, 1e9, 1e6, ground=40, ground_known=2, charts=100)
    assert plan.ground_core_seconds == pytest.approx(40 * 0.5 + 100 * 0.26)
    assert any(
        "at most 40 pairs of charts of the road and 100 charts to find them, 46 core" in one for one in plan.lines()
    )

"""Parts of a city that no link joins are compared where their roads look alike from above."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.fuse.alike_roads import alike_roads, most_alike
from pipeline.fuse.candidates import GROUND
from pipeline.fuse.placement import Placement
from pipeline.fuse.published_drives import read_drive
from pipeline.publish import open_drive
from tests.fuse.rendered_drives import GAUGES, Rendered, publish


def test_charts_of_one_road_are_candidates_between_parts_whatever_they_have_in_common_with_all_others():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(24, 400)).astype(np.float32)
    rows[17] = rows[3] + 0.5 * rng.normal(size=400)  # chart 3 of drive 0 and chart 5 of drive 1
    rows[20] = rows[1]  # both of drives that a link joins
    rows = 10 + rows  # what all roads have in common
    drive, frame = np.repeat([0, 1, 4], [12, 8, 4]), np.concatenate([np.arange(12), np.arange(8), np.arange(4)])
    part = np.array([0, 1, 0])[np.repeat([0, 1, 2], [12, 8, 4])]
    made = most_alike(rows, drive, frame, part, 2)
    best = max(made, key=lambda one: one.score)
    assert (best.first, best.first_frame, best.second, best.second_frame) == (0, 3, 1, 5)
    assert best.by == GROUND and not best.opposite
    assert {(one.first, one.second) for one in made} <= {(0, 1), (1, 4)}
    assert most_alike(rows, drive, frame, np.zeros(24, int), 2) == []
    rows[3] = 0  # a frame without a chart
    assert all((one.first, one.first_frame) != (0, 3) for one in most_alike(rows, drive, frame, part, 2))
    assert most_alike(np.zeros_like(rows), drive, frame, part, 2) == []


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """Two drives beside each other through one street, each in units of its own."""
    root, made = tmp_path_factory.mktemp("roads"), []
    for name, aside, gauge in (("a", 0.0, GAUGES[0]), ("b", 0.6, GAUGES[1])):
        publish(root / "out", root / name, name, Rendered(range(60), aside), gauge)
        made.append(read_drive(open_drive(str(root / "out"), name)))
    return made


def test_drives_without_a_common_frame_are_compared_where_they_saw_the_same_road(drives):
    placements, metres = [], {}
    for n, (one, gauge) in enumerate(zip(drives, GAUGES, strict=False)):
        poses = one.joined.world_from_camera
        placements.append(Placement(f"of-{n}", one.frame_index, poses, np.ones(len(poses))))
        metres[f"of-{n}"] = gauge.scale
    leads = [one.rig.reference for one in drives]
    found = alike_roads(drives, placements, metres, leads, 2, 3, {})
    assert found and all(one.by == GROUND for one in found)
    best = max(found, key=lambda one: one.score)
    place = [one.joined.world_from_camera[:, :3, 3] / gauge.scale for one, gauge in zip(drives, GAUGES, strict=False)]
    way = [np.append(0, np.cumsum(np.linalg.norm(np.diff(one, axis=0), axis=1))) for one in place]
    assert abs(way[0][best.first_frame] - way[1][best.second_frame]) < 15
    assert alike_roads(drives, placements, metres, leads, 2, 3, {0: 3}) == []  # the budget is spent
    same = [placements[0], replace(placements[1], frame="of-0")]
    assert alike_roads(drives, same, metres, leads, 2, 3, {}) == []

"""Parts of a city that no link joins are compared where their roads look alike from above."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.fuse.alike_roads import alike_charts, alike_roads
from pipeline.fuse.candidates import GROUND
from pipeline.fuse.placement import Placement
from pipeline.fuse.published_drives import read_drive
from pipeline.publish import open_drive
from tests.fuse.rendered_drives import GAUGES, Rendered, publish


def test_charts_of_one_road_are_alike_whatever_they_have_in_common_with_all_others():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(24, 400)).astype(np.float32)
    rows[17] = rows[3] + 0.5 * rng.normal(size=400)
    similar = alike_charts(10 + rows)  # what all roads have in common
    others = similar - np.eye(24) - 2 * np.isin(np.arange(24), (3, 17))[:, None]
    assert similar[3, 17] == similar[17, 3] > 0.7 and others.max() < 0.3


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

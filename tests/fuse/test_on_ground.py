"""Charts of the road link drives in any direction; other roads are refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.backend.sim3 import rotation_exp, rotation_log
from pipeline.fuse.candidates import GROUND, Candidate
from pipeline.fuse.evidence import Evidence
from pipeline.fuse.ground_chart import Seen, drawn, plane_by_pictures
from pipeline.fuse.on_ground import GroundLook, look_down, seen_on_ground
from pipeline.fuse.published_drives import read_drive
from pipeline.fuse.road_plane import RoadPlane, plane_below
from pipeline.fuse.verification import Verifier
from pipeline.publish import open_drive
from pipeline.synthetic import CityDrive
from tests.fuse.rendered_drives import GAUGES, Rendered, publish

FRAMES, SCALE, HEIGHT = 110, 2.5, 1.6
AXES = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # of a level chart: right, ahead, up in the camera's axes


class Around:
    """The road around a frame of a rendered drive, seen by the frames before and after it. unit: drive units in a
    metre; lean: error of the plane's slope ahead."""

    def __init__(self, drive, number, unit=1.0, lean=0.0):
        place = drive.world_from_camera[:, :3, 3]
        way = np.append(0, np.cumsum(np.linalg.norm(np.diff(place, axis=0), axis=1)))
        near = (way > way[number] - 20) & (way < way[number] + 8)
        numbers = np.flatnonzero(near & (np.diff(np.floor(way / 0.8), prepend=-1) > 0)).tolist()
        seen = drive.render(numbers)
        intrinsics = drive.intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]]
        poses = drive.world_from_camera[numbers].copy()
        poses[:, :3, 3] *= unit
        self.pictures = [
            Seen(pose, intrinsics, image.mean(-1).astype(np.float32))
            for pose, image in zip(poses, seen.images, strict=True)
        ]
        self.pose = drive.world_from_camera[number].copy()
        self.pose[:3, 3] *= unit
        normal = np.array([0.0, 0, -1]) + lean * self.pose[:3, 2]
        point = self.pose[:3, 3] * [1, 1, 0]
        self.road = RoadPlane(normal / np.linalg.norm(normal), point, self.pose[2, 3])
        self.unit = unit

    @property
    def chart(self):
        return drawn(self.pose, self.road, self.pictures)


@pytest.fixture(scope="module")
def drives():
    """Two drives through one street in other light, the second one the other way."""
    return [CityDrive(30 + n, FRAMES, 168, 336, city_seed=7, streets=0, opposite=n == 1, light=n) for n in range(2)]


def beside(drives, number):
    """The frame of the second drive that is nearest to frame `number` of the first one."""
    there, back = (one.world_from_camera[:, :3, 3] for one in drives)
    return int(np.linalg.norm(back - there[number], axis=1).argmin())


@pytest.fixture(scope="module")
def both(drives):
    number = next(n for n in range(22, FRAMES) if 22 <= beside(drives, n) < 28)
    return Around(drives[0], number), Around(drives[1], beside(drives, number), SCALE)


def test_drives_in_opposite_directions_and_other_light_are_linked_by_the_road(both):
    first, second = both
    found = seen_on_ground(look_down(first.chart), look_down(second.chart))
    assert not isinstance(found, str), found
    true = np.linalg.inv(second.pose) @ np.block([[first.pose[:3, :3], SCALE * first.pose[:3, 3:]], [np.eye(4)[3:]]])
    turn = rotation_log((found.second_from_first.rotation @ true[:3, :3].T)[None])[0]
    away = found.second_from_first.translation - true[:3, 3]
    stretched = np.log(found.second_from_first.scale / SCALE)
    assert np.linalg.norm(away) / SCALE < 0.15 and np.degrees(np.linalg.norm(turn)) < 0.6 and abs(stretched) < 0.02
    error = np.concatenate([turn, away, [stretched]])
    assert error @ np.linalg.solve(found.covariance, error) < 24.3  # 0.999, 7 degrees of freedom
    assert np.linalg.eigvalsh(found.covariance)[0] > 0 and found.matches >= 45


def test_other_places_are_refused_with_the_reason(drives, both):
    first = look_down(both[0].chart)
    for number in (8, FRAMES - 8):
        other = look_down(Around(drives[1], number).chart)
        assert "features of the road" in seen_on_ground(first, other)
    nothing = replace(first, place=first.place[:0], descriptor=first.descriptor[:0])
    assert seen_on_ground(first, nothing) == "0 features of the road match, 45 are needed"
    line = replace(first, place=first.place * [1.0, 0.01])
    assert seen_on_ground(line, line) == "features of the road that agree lie on one line"
    far = replace(first, place=3 * first.place)
    assert seen_on_ground(first, far) == "one camera would be 3.0 times as high as the other"


@settings(max_examples=20, deadline=None)
@given(st.floats(-3.1, 3.1), st.floats(0.6, 1.6), st.tuples(st.floats(-3, 3), st.floats(-3, 3)))
def test_a_chart_that_is_turned_moved_and_stretched_gives_that_pose(angle, ratio, shift):
    rng = np.random.default_rng(0)
    place = rng.uniform(-5, 5, (120, 2))
    descriptor = np.eye(128, dtype=np.float32)[:120]
    look = GroundLook(place, descriptor, AXES, np.array([0, HEIGHT, 0]), HEIGHT)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    other = replace(look, place=ratio * place @ turn.T + shift, height=HEIGHT * SCALE, origin=SCALE * look.origin)
    found = seen_on_ground(look, other).second_from_first
    assert abs(found.scale - ratio * SCALE) < 1e-9
    expected = rotation_exp(np.array([0, -angle, 0]))  # counterclockwise from above: about the camera's y axis, down
    assert np.abs(found.rotation - expected).max() < 1e-9
    # the camera is above the middle of its chart, so it moves as that does, but for its height
    moved = found.translation + found.scale * found.rotation @ look.origin - other.origin
    assert np.abs(moved - SCALE * HEIGHT * np.array([shift[0], 0, shift[1]])).max() < 1e-9


def test_pictures_correct_a_plane_that_is_wrong(drives):
    wrong = Around(drives[0], 40, lean=0.008)
    found = plane_by_pictures(wrong.road, wrong.pose, wrong.pictures)
    right = np.array([0.0, 0, -1])
    assert np.arccos(found.normal @ right) < 0.5 * np.arccos(wrong.road.normal @ right)


def test_the_road_is_the_plane_of_most_points_along_the_way():
    rng = np.random.default_rng(0)
    pose = np.tile(np.eye(4), (10, 1, 1))
    pose[:, 2, 3] = np.arange(10.0)
    seen_by = rng.integers(0, 10, 400)
    points = np.stack([rng.uniform(-3, 3, 400), np.full(400, HEIGHT), rng.uniform(6, 12, 400)], 1)
    points[:, 2] += seen_by
    points[:, 1] += rng.normal(0, 0.01, 400)
    points[:120, 1] -= rng.uniform(0.1, 1.0, 120)  # parked cars
    found = plane_below(pose, seen_by, points)
    assert abs(found.height - HEIGHT) < 0.01 and found.normal[1] > 0.9999
    assert plane_below(pose, seen_by[:20], points[:20]) is None
    ramp = points.copy()
    ramp[:, 1] += 0.15 * (ramp[:, 2] - 10)  # a plane that the car would drive into
    assert plane_below(pose, seen_by, ramp) is None
    cloud = rng.uniform([-3, 0.5, 6], [3, 4, 12], (400, 3)) + np.array([0, 0, 1.0]) * seen_by[:, None]
    assert plane_below(pose, seen_by, cloud) is None


def test_published_drives_are_linked_by_the_road_and_the_verdict_is_stored(tmp_path):
    seen = []
    for name, aside, gauge in (("a", 0.0, GAUGES[0]), ("b", 0.6, GAUGES[1])):
        rendered = Rendered(range(40), aside)
        publish(tmp_path / "out", tmp_path / name, name, rendered, gauge)
        seen.append((read_drive(open_drive(str(tmp_path / "out"), name)), rendered))
    (first, one), (second, other) = seen
    candidate = Candidate(0, 28, 1, 28, 1.0, GROUND, True)
    evidence = Evidence(str(tmp_path / "out"), [first, second])
    (found,) = Verifier([first, second]).verify_all([candidate], evidence, lambda: None)
    assert "features of the road" in found.reason and found.link is not None
    assert found.reason.endswith("agree from one direction")  # as the link says, whatever was expected
    # there are no corners here: the plane is that of dense points
    true = GAUGES[1].scale * (np.linalg.inv(other.poses[28]) @ one.poses[28])[:3, 3]
    assert np.linalg.norm(found.link.second_from_first.translation - true) < 0.15 * GAUGES[1].scale
    assert abs(np.log(found.link.second_from_first.scale / 4.0)) < 0.02
    again = Evidence(str(tmp_path / "out"), [first, second])
    assert again.known(candidate).reason == found.reason and again.kinds == (GROUND,)
    assert again.known(replace(candidate, by="solution")) is None  # another kind of comparison
    for picture in (tmp_path / "b").glob("*.png"):
        picture.unlink()
    (lost,) = Verifier([first, second]).verify_all([replace(candidate, second_frame=27)], evidence, lambda: None)
    assert lost.link is None and not lost.lasting and "drive b: frame 27" in lost.reason

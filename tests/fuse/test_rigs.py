"""Drives of several cameras in a city: the solution knows their rigs, links are between any two of their cameras."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.backend.sim3 import Sim3, rotation_exp, rotation_log
from pipeline.cameras.rig import Rig
from pipeline.cameras.rig_time import moved_on
from pipeline.common.progress import Reporter
from pipeline.fuse import FuseConfig, open_city, run_fuse
from pipeline.fuse.rig_frames import RigFrames, between_rigs
from pipeline.publish import open_drive
from pipeline.synthetic import CityDrive
from pipeline.synthetic.rig import rig_cameras
from tests.fuse.rendered_drives import GAUGES, HEIGHT, WIDTH, place_descriptors, publish


def pose(turn, place):
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = rotation_exp(np.array(turn)), place
    return made


vectors = st.tuples(*[st.floats(-2, 2)] * 3)


@given(vectors, vectors, vectors, vectors, vectors, vectors, st.floats(0.3, 3))
@settings(deadline=None, max_examples=60)
def test_the_relative_pose_of_two_rigs_follows_from_that_of_two_cameras_with_its_covariance(a, b, c, d, e, f, scale):
    first, second, camera = pose(a, b), pose(c, d), Sim3(scale, rotation_exp(np.array(e)), np.array(f))
    nothing = np.eye(7)
    relative, covariance = between_rigs(first, second, camera, nothing)
    point = np.array([[0.3, -1.0, 2.0]])
    through = (np.linalg.inv(first) @ np.append(point[0], 1.0))[:3]
    expected = (second @ np.append(camera.apply(through[None])[0], 1.0))[:3]
    np.testing.assert_allclose(relative.apply(point)[0], expected, atol=1e-9)
    jacobian, small = np.zeros((7, 7)), 1e-6
    for n in range(7):
        step = np.zeros(7)
        step[n] = small
        moved = Sim3(scale * np.exp(step[6]), rotation_exp(step[:3]) @ camera.rotation, camera.translation + step[3:6])
        other, _ = between_rigs(first, second, moved, nothing)
        jacobian[:3, n] = rotation_log(other.rotation @ relative.rotation.T) / small
        jacobian[3:6, n] = (other.translation - relative.translation) / small
        jacobian[6, n] = np.log(other.scale / relative.scale) / small
    np.testing.assert_allclose(covariance, jacobian @ jacobian.T, atol=1e-3)


def test_an_instant_without_its_reference_frame_is_placed_by_the_nearest_one():
    poses = np.stack([pose((0, 0.1 * n, 0), (n, 0, 0)) for n in range(7)])
    cameras = SimpleNamespace(frame_index=np.array([0, 1, 3, 4, 5, 6, 7]), world_from_camera=poses)
    rig = RigFrames.of(cameras, 2, "a")
    np.testing.assert_array_equal(rig.reference, [0, 3, 5])  # frames 0, 4 and 6
    np.testing.assert_array_equal(rig.instant, [0, 0, 0, 1, 1, 2, 2])
    placed, _ = rig.placed(poses[rig.reference], np.ones(3))
    np.testing.assert_allclose(placed, poses, atol=1e-12)
    twice, _ = rig.placed(poses[rig.reference], np.full(3, 2.0))
    np.testing.assert_allclose(twice[1, :3, 3] - poses[0, :3, 3], 2 * (poses[1, :3, 3] - poses[0, :3, 3]))


def test_a_late_camera_keeps_the_pose_of_its_own_time_when_a_city_places_its_drive():
    """Half a step later the camera is farther from the car's pose where the car is faster."""
    cars = np.stack([pose((0, 0.02 * n * n, 0), (n * n / 4, 0, n)) for n in range(6)])
    beside = pose((0, -1, 0), (-0.5, 0, 0))
    late = moved_on(cars, np.arange(6), np.ones(6, bool), 0.5) @ beside
    world = np.stack([cars, late], 1).reshape(-1, 4, 4)
    rig = RigFrames.of(SimpleNamespace(frame_index=np.arange(12), world_from_camera=world), 2, "a")
    city = Sim3(2.0, rotation_exp(np.array([0.1, 1.0, -0.2])), np.array([3.0, 4.0, 5.0]))
    placed, _ = rig.placed(city.transform_pose(cars), np.full(6, 2.0))
    np.testing.assert_allclose(placed, city.transform_pose(world), atol=1e-9)


CAMERAS = ("image_0", "cam_left")


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    """Two rigs of two cameras through one street, 6 instants apart; their true poses, the output, and the city."""
    out, truth = tmp_path_factory.mktemp("rigs") / "out", {}
    drive = CityDrive(7, 60, HEIGHT, WIDTH)
    front_from_left = rig_cameras(3)[0].front_from_camera
    for name, numbers, gauge in zip("ab", (range(14), range(6, 20)), GAUGES, strict=True):
        fronts = drive.world_from_camera[list(numbers)]
        truth[name] = np.stack([fronts, fronts @ front_from_left], 1).reshape(-1, 4, 4)
        seen = drive.render_poses(truth[name])
        made = SimpleNamespace(poses=truth[name], images=seen.images, depth=seen.depth, intrinsics=drive.intrinsics)
        places = (np.arange(len(truth[name])), place_descriptors(truth[name]))
        publish(out, out.parent / name, name, made, gauge, rig=Rig(CAMERAS, (None, None)), places=places)
    config = FuseConfig(str(out), similarity=0.4, tile=20.0, voxel=0.2, copc=False)
    return truth, out, run_fuse(config, Reporter())


def test_all_cameras_of_two_rigs_have_their_true_poses_in_the_city(city):
    truth, out, fused = city
    assert fused.accepted >= 1 and fused.drives == 2
    made = open_city(str(out))
    placed, metres = made.placements(), GAUGES[0].inverse()
    for name in "ab":
        assert open_drive(str(out), name).camera_count == 2
        found = metres.apply(placed[name].city_from_camera[:, :3, 3])
        assert np.linalg.norm(found - truth[name][:, :3, 3], axis=1).max() < 0.5
        turned = placed[name].city_from_camera[:, :3, :3].transpose(0, 2, 1) @ truth[name][:, :3, :3]
        assert np.degrees(np.linalg.norm(rotation_log(turned), axis=1)).max() < 1.0
        # the cameras of an instant stay where they are on the car
        own = np.linalg.inv(placed[name].city_from_camera[::2]) @ placed[name].city_from_camera[1::2]
        np.testing.assert_allclose(own[:, :3, :3], np.broadcast_to(own[0, :3, :3], own[:, :3, :3].shape), atol=1e-5)
    frames = made.points(columns=["frame_index", "drive_id"])["frame_index"].to_numpy()
    assert {0, 1} == set((frames % 2).tolist())


def test_frames_of_all_cameras_are_compared(city):
    links = [one for one in open_city(str(city[1])).links.to_pylist() if one["accepted"]]
    assert {0, 1} == {one["first_frame"] % 2 for one in links}
    assert all(one["first_frame"] % 2 == one["second_frame"] % 2 for one in links)

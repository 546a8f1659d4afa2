"""Joint chunks: which frames are in one, and the link of two drives that its prediction measures."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.backend.sim3 import Sim3, rotation_exp, rotation_log
from pipeline.fuse.joint_link import JointLink, joint_link
from pipeline.fuse.joint_windows import frame_window, published_frames, window_around, window_of
from pipeline.fuse.published_drives import read_drive
from pipeline.publish import open_drive
from tests.fuse.rendered_drives import GAUGES, Rendered, publish

FRAMES, HEIGHT, WIDTH = 6, 8, 16


@dataclass(frozen=True, eq=False)
class Prediction:
    frame_index: np.ndarray
    cam_from_world: np.ndarray
    intrinsics: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray


def seen(drive_from_metres, poses, depth):
    """What a drive, or a joint chunk in its gauge, says of cameras (n, 4, 4) and depth (n, h, w) in metres."""
    count = len(poses)
    matrix = np.tile(np.array([[WIDTH, 0, WIDTH / 2], [0, WIDTH, HEIGHT / 2], [0, 0, 1.0]]), (count, 1, 1))
    own = np.linalg.inv(drive_from_metres.transform_pose(poses))[:, :3]
    return Prediction(np.arange(count), own, matrix, depth * drive_from_metres.scale, np.full(depth.shape, 2.0))


def street(begin, aside=0.0):
    """Cameras along a street, a metre apart, and their depth."""
    poses = np.tile(np.eye(4), (FRAMES, 1, 1))
    poses[:, :3, :3] = rotation_exp(np.outer(np.arange(FRAMES), (0.0, 0.02, 0.0)))
    poses[:, :3, 3] = np.stack([np.full(FRAMES, aside), np.zeros(FRAMES), begin + np.arange(FRAMES)], -1)
    rng = np.random.default_rng(int(begin * 10))
    return poses, rng.uniform(4, 30, (FRAMES, HEIGHT, WIDTH))


vectors = st.tuples(*[st.floats(-2, 2)] * 3)
gauges = st.builds(
    lambda scale, turn, place: Sim3(scale, rotation_exp(np.array(turn)), np.array(place)),
    st.floats(0.2, 5),
    vectors,
    vectors,
)


@given(gauges, gauges, gauges, st.integers(0, FRAMES - 1), st.integers(0, FRAMES - 1))
@settings(deadline=None, max_examples=60)
def test_of_a_perfect_prediction_the_link_is_the_true_relative_pose_whatever_the_gauges_and_units(a, b, joint, i, j):
    """Two drives saw one street, each in its own gauge; the prediction has a third one."""
    (first, near), (second, far) = street(0.0), street(0.5, aside=1.5)
    found = joint_link(
        (seen(joint, first, near), seen(joint, second, far)),
        (seen(a, first, near), seen(b, second, far)),
        (a.transform_pose(first)[i], b.transform_pose(second)[j]),
    )
    assert isinstance(found, JointLink)
    expected = Sim3.from_matrix(np.linalg.inv(b.transform_pose(second)[j])) @ b @ a.inverse()
    expected = expected @ Sim3.from_matrix(a.transform_pose(first)[i])
    assert found.second_from_first.scale == pytest.approx(b.scale / a.scale, rel=1e-6)
    np.testing.assert_allclose(found.second_from_first.rotation, expected.rotation, atol=1e-6)
    np.testing.assert_allclose(found.second_from_first.translation, expected.translation, atol=1e-5 * b.scale)
    assert found.turn < 1e-5 and found.place < 1e-5 and found.inliers == 1.0
    assert np.linalg.eigvalsh(found.covariance)[0] > 0


def bent(prediction, by):
    """The prediction with each camera turned and moved at random: a half that the network did not understand."""
    rng = np.random.default_rng(4)
    own = prediction.cam_from_world.copy()
    own[:, :, :3] = rotation_exp(by * rng.normal(size=(FRAMES, 3))) @ own[:, :, :3]
    own[:, :, 3] += by * rng.normal(size=(FRAMES, 3))
    return replace(prediction, cam_from_world=own)


def test_the_worse_the_halves_agree_with_the_published_frames_the_wider_is_the_covariance():
    (first, near), (second, far) = street(0.0), street(0.5)
    drives = seen(Sim3.identity(), first, near), seen(Sim3.identity(), second, far)
    found = [joint_link((drives[0], bent(drives[1], by)), drives, (first[2], second[2])) for by in (0.0, 0.01, 0.05)]
    deviation = np.sqrt([np.diag(one.covariance) for one in found])
    assert (np.diff(deviation[:, [0, 3]], axis=0) > 0).all()
    assert found[0].turn < found[1].turn < found[2].turn and found[0].place < found[1].place < found[2].place
    turn = np.linalg.norm(rotation_log(found[2].second_from_first.rotation))
    assert turn < 4 * deviation[2, 0]


def test_a_half_with_fewer_than_three_good_frames_gives_no_link_but_its_reason():
    (first, near), (second, far) = street(0.0), street(0.5)
    drives = seen(Sim3.identity(), first, near), seen(Sim3.identity(), second, far)
    bad = SimpleNamespace(**vars(drives[1]), ok=np.arange(FRAMES) < 2)
    said = joint_link((drives[0], bad), drives, (first[0], second[0]))
    assert isinstance(said, str) and "second drive's half" in said and "too few usable frames" in said
    damaged = replace(drives[0], cam_from_world=np.full((FRAMES, 3, 4), np.nan))
    said = joint_link((damaged, drives[1]), drives, (first[0], second[0]))
    assert isinstance(said, str) and "first drive's half" in said and "not finite" in said


@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 12), st.data())
@settings(deadline=None, max_examples=100)
def test_a_window_has_usable_frames_of_one_camera_around_its_frame_and_is_shifted_at_the_ends(
    count, cameras, size, data
):
    place = data.draw(st.integers(0, count - 1))
    usable = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    camera = np.arange(count) % cameras
    window = window_around(usable, camera, place, size)
    able = np.flatnonzero((camera == camera[place]) & (usable | (np.arange(count) == place)))
    assert len(window) == min(size, len(able)) and place in window
    at = np.searchsorted(able, window)
    assert (np.diff(at) == 1).all() and set(window) <= set(able)
    middle = int(np.searchsorted(able, place))
    if size // 2 <= middle <= len(able) - size + size // 2:
        assert at[0] == middle - size // 2


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A rendered drive of 12 frames with units of half a metre, and its truth."""
    folder, rendered = tmp_path_factory.mktemp("joint"), Rendered(range(12))
    publish(folder / "out", folder / "images", "a", rendered, GAUGES[0])
    return read_drive(open_drive(str(folder / "out"), "a")), rendered, folder


def test_the_published_depth_of_a_window_is_that_of_its_own_points_in_the_networks_pixels(published):
    drive, rendered, _ = published
    places = window_of(drive, 5, 6)
    np.testing.assert_array_equal(places, np.arange(2, 8))
    frames = published_frames(drive, places, (64, 128))
    assert frames.depth.shape == (6, 64, 128) and np.isfinite(frames.depth).mean() > 0.5
    rows, columns = np.arange(64) * 168 // 64 + 1, np.arange(128) * 336 // 128 + 1
    true = rendered.depth[places][:, rows][:, :, columns] * GAUGES[0].scale
    ratio = np.log(frames.depth / np.where(true > 0, true, np.nan))
    assert abs(np.nanmedian(ratio)) < 0.02 and np.nanmedian(np.abs(ratio)) < 0.05
    np.testing.assert_allclose(np.linalg.inv(drive.opened.cameras.world_from_camera[5])[:3], frames.cam_from_world[3])
    same = joint_link((frames, frames), (frames, frames), (np.eye(4), np.eye(4)))
    np.testing.assert_allclose(same.second_from_first.matrix(), np.eye(4), atol=1e-9)


def test_a_window_is_read_only_from_the_input_that_the_result_names(published, tmp_path):
    drive, _, folder = published
    window = frame_window(drive, [3, 4], (64, 128))
    assert window.uris == tuple(str(folder / "images" / f"{n:06d}.png") for n in (3, 4))
    assert window.numbers == (3, 4) and window.source_size == (336, 168) and window.film_numbers is None
    cameras = replace(drive.opened.cameras, uris=tuple("/etc/passwd" for _ in drive.opened.cameras.uris))
    lying = SimpleNamespace(
        cameras=cameras, frame_source=drive.opened.frame_source, lens=None, manifest=drive.opened.manifest
    )
    with pytest.raises(Exception, match="does not lie in its input"):
        frame_window(replace(drive, opened=lying), [3], (64, 128))

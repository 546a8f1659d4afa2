"""A rig's window is adjusted to the tracks of all cameras; unknown cameras are found on the car."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.refine.chunk_result import WindowResult
from pipeline.refine.evidence import held_back
from pipeline.refine.problem import inverse
from pipeline.refine.refine_window import refine_window
from pipeline.refine.rig_frames import Mount
from pipeline.refine.rig_mount import common_mount, mount_evidence, poses_alone, with_turns
from pipeline.refine.rig_window import RigView, refine_rig_window, with_motions
from pipeline.refine.tracks import Tracks
from tests.refine.rig_scene import CAMERAS, RIG, UNKNOWN, RigScene, error_of, rig_drive
from tests.refine.scene import CAMERA

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def scene() -> RigScene:
    return rig_drive()


def path(poses: Array) -> float:
    """Length of the path of poses (I, 4, 4)."""
    return float(np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).sum())


def mounted(result: WindowResult) -> Array:
    """Centres (C, 3) of the cameras in the axes of the reference camera."""
    instant = result.cam_from_window[5 * CAMERAS : 6 * CAMERAS]
    return inverse(instant @ inverse(instant[:1])[0])[:, :3, 3]


def test_a_rig_is_better_than_its_front_camera_alone(scene: RigScene) -> None:
    """The network's poses are off by 6 degrees and half a metre, as those of a network that does not know rigs."""
    window = scene.window()
    result = refine_rig_window(window, scene.tracks, CAMERA, scene.grid, 1.0, Mount.of(RIG))
    assert result.accepted[0]
    off, turned = error_of(result.cam_from_window, scene)
    assert off < 0.05 and turned < 0.001
    assert error_of(window.cam_from_window, scene)[0] > 0.5
    front = scene.tracks.select(scene.tracks.frame % CAMERAS == 0)
    rows = np.arange(0, len(window.frame_index), CAMERAS)
    own = replace(window.select(rows), frame_index=np.arange(len(rows)))
    alone = refine_window(own, replace(front, frame=front.frame // CAMERAS), CAMERA, scene.grid, 1.0)
    assert alone.accepted[0]
    assert off < 0.9 * error_of(np.repeat(alone.cam_from_window, CAMERAS, axis=0), scene)[0]
    unit = path(inverse(result.cam_from_window)[::CAMERAS]) / path(scene.world_from_rig)
    metre = np.linalg.norm(mounted(result)[1]) / np.linalg.norm(RIG[1, :3, 3])
    assert abs(np.log(metre / unit)) < 3 * result.metre_sigma[0] < 0.3


def test_late_cameras_give_the_metre_and_the_poses_of_their_own_times() -> None:
    late = np.array([0, 0.5, -0.3])
    moved = rig_drive(late=tuple(late))
    window = moved.window()
    result = refine_rig_window(window, moved.tracks, CAMERA, moved.grid, 1.0, Mount.of(RIG, late))
    assert result.accepted[0]
    off, turned = error_of(result.cam_from_window, moved)
    assert off < 0.05 and turned < 0.001
    found, true = inverse(result.cam_from_window), moved.world_from_camera
    unit = path(found[::CAMERAS]) / path(true[::CAMERAS])
    for camera in (1, 2):
        apart = [
            (inverse(one[::CAMERAS]) @ one[camera::CAMERAS])[:, :3, 3] * scale
            for one, scale in ((found, 1 / unit), (true, 1))
        ]
        assert np.linalg.norm(apart[0] - apart[1], axis=1).max() < 0.05
    assert result.metre_sigma[0] < 0.1
    at_once = refine_rig_window(window, moved.tracks, CAMERA, moved.grid, 1.0, Mount.of(RIG))
    assert not at_once.accepted[0] or error_of(at_once.cam_from_window, moved)[0] > 3 * off


def test_unknown_places_of_late_cameras_are_those_on_the_car() -> None:
    late = np.array([0, 0.5, -0.3])
    moved = rig_drive(seed=1, late=tuple(late))
    window = moved.window()
    begun = with_turns(Mount.of(UNKNOWN, late), [poses_alone(window, moved.tracks, CAMERA, moved.grid, CAMERAS)])
    evidence = mount_evidence(window, moved.tracks, CAMERA, moved.grid, begun)
    found = common_mount(begun, [evidence])
    turned = found.turn[1:] @ RIG[1:, :3, :3]
    assert np.degrees(np.arccos(np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1))).max() < 0.3
    result = refine_rig_window(window, moved.tracks, CAMERA, moved.grid, 1.0, found)
    assert result.accepted[0]
    unit = path(inverse(result.cam_from_window)[::CAMERAS]) / path(moved.world_from_rig)
    assert np.linalg.norm(found.place / unit - RIG[:, :3, 3], axis=1).max() < 0.2


def test_the_same_window_gives_the_same_bytes() -> None:
    small = rig_drive(instants=8, points=400)
    one, other = (
        refine_rig_window(small.window(), small.tracks, CAMERA, small.grid, 1.0, Mount.of(RIG)) for _ in range(2)
    )
    assert one.accepted[0]
    assert one.cam_from_window.tobytes() == other.cam_from_window.tobytes()
    assert one.correction.tobytes() == other.correction.tobytes()


def test_unknown_cameras_are_found_by_their_own_motions(scene: RigScene) -> None:
    window = scene.window(unit=0.05)
    mount = Mount.of(UNKNOWN)
    alone = poses_alone(window, scene.tracks, CAMERA, scene.grid, CAMERAS)
    begun = with_turns(mount, [alone, None])
    found = common_mount(begun, [mount_evidence(window, scene.tracks, CAMERA, scene.grid, begun), None])
    assert not found.free_turn.any()
    for begin, end, true in zip(begun.turn[1:], found.turn[1:], RIG[1:, :3, :3], strict=True):
        off = [np.degrees(np.arccos(np.clip((np.trace(one @ true) - 1) / 2, -1, 1))) for one in (begin, end)]
        assert off[0] < 5 and off[1] < 0.3
    result = refine_rig_window(window, scene.tracks, CAMERA, scene.grid, 1.0, found)
    assert result.accepted[0] and error_of(result.cam_from_window, scene)[0] < 0.05
    assert not len(result.metre_sigma)
    place = mounted(result) / (path(inverse(result.cam_from_window)[::CAMERAS]) / path(scene.world_from_rig))
    assert np.linalg.norm(place - RIG[:, :3, 3], axis=1).max() < 0.2  # 2 % of the usual depth


@pytest.mark.parametrize("camera", [0, 1])
def test_a_camera_that_sees_nothing_for_a_stretch_does_not_end_it(scene: RigScene, camera: int) -> None:
    tracks = scene.without(camera, range(6, 12))
    after = (tracks.frame >= 12 * CAMERAS) & (tracks.frame % CAMERAS == camera)
    cut = Tracks.sorted(tracks.track + 9000 * CAMERAS * after, tracks.frame, tracks.xy)
    result = refine_rig_window(scene.window(), cut, CAMERA, scene.grid, 1.0, Mount.of(RIG))
    assert result.accepted[0]
    off, turned = error_of(result.cam_from_window, scene)
    assert off < 0.1 and turned < 0.002


def test_a_step_in_which_the_car_hardly_moves_is_found_without_two_view_geometry() -> None:
    """The car stops after ten instants and goes on; the network's rotation of that step is off by 15 degrees."""
    scene = rig_drive()
    stopped = np.repeat(np.arange(20), np.where(np.arange(20) == 9, 2, 1))
    world = scene.world_from_rig[stopped]
    rows = scene.tracks
    instant = rows.frame // CAMERAS
    late, again = rows.frame + CAMERAS * (instant > 9), instant == 9
    jitter = np.random.default_rng(0).normal(0, 0.5, (int(again.sum()), 2))
    tracks = Tracks.sorted(
        np.concatenate([rows.track, rows.track[again]]),
        np.concatenate([late, rows.frame[again] + CAMERAS]),
        np.concatenate([rows.xy, rows.xy[again] + jitter]),
    )
    stands = replace(scene, world_from_rig=world, tracks=tracks)
    window = stands.window(turn=0.2)
    result = refine_rig_window(window, tracks, CAMERA, scene.grid, 1.0, Mount.of(RIG))
    off, turned = error_of(result.cam_from_window, stands)
    assert result.accepted[0] and off < 0.05 and turned < 0.002


def test_a_result_that_held_back_tracks_contradict_is_not_accepted(scene: RigScene) -> None:
    """The adjusted tracks have an error that the held-back ones do not have."""
    lying = ~held_back(scene.tracks)
    xy = scene.tracks.xy.copy()
    xy[lying, 1] += (4.0 * (scene.tracks.frame // CAMERAS % 3))[lying]
    window = scene.window(turn=0.0, shift=0.0)
    result = refine_rig_window(window, replace(scene.tracks, xy=xy), CAMERA, scene.grid, 1.0, Mount.of(RIG))
    assert not result.accepted[0]


def test_without_tracks_or_with_half_an_instant_the_networks_cameras_stay(scene: RigScene) -> None:
    window = scene.window()
    cut = window.select(np.arange(len(window.frame_index) - 1))
    for one, tracks in ((window, Tracks.none()), (cut, scene.tracks.select(scene.tracks.frame < len(cut.ok)))):
        result = refine_rig_window(one, tracks, CAMERA, scene.grid, 1.0, Mount.of(RIG))
        assert not result.accepted[0]
        np.testing.assert_array_equal(result.applied(one, scene.grid).cam_from_window, one.cam_from_window)
    assert RigView.of(cut, Tracks.none(), CAMERAS) is None
    assert common_mount(Mount.of(UNKNOWN), [None]).free_turn.sum() == 0


def test_measured_steps_hold_the_length_of_a_metre(scene: RigScene) -> None:
    steps = inverse(scene.world_from_rig[:-1]) @ scene.world_from_rig[1:]
    motions = {100 + number: step for number, step in enumerate(steps)}
    window = replace(scene.window(shift=0.05, unit=0.2), frame_index=np.arange(len(scene.window().ok)) + 300)
    tracks = replace(scene.tracks, frame=scene.tracks.frame + 300)
    result = refine_rig_window(window, tracks, CAMERA, scene.grid, 1.0, Mount.of(RIG), motions)
    found = inverse(result.cam_from_window)
    length, true = (
        np.linalg.norm(np.diff(one[:, :3, 3], axis=0), axis=1) for one in (found[::CAMERAS], scene.world_from_rig)
    )
    unit = length / true
    assert result.accepted[0] and unit.std() / unit.mean() < 0.005
    place = np.linalg.norm(found[1, :3, 3] - found[0, :3, 3]) / np.linalg.norm(RIG[1, :3, 3])
    assert place == pytest.approx(unit.mean(), rel=0.03)


def test_measured_steps_that_cannot_be_compared_are_left_out(scene: RigScene) -> None:
    poses = inverse(scene.world_from_rig)
    steps = inverse(scene.world_from_rig[:-1]) @ scene.world_from_rig[1:]
    random = np.random.default_rng(0).lognormal(0, 1, len(steps))
    wild = {
        number: np.block([[step[:3, :3], step[:3, 3:] * random[number]], [np.eye(4)[3:]]])
        for number, step in enumerate(steps)
    }
    for motions in ({}, {0: steps[0], 1: steps[1]}, wild):
        found = with_motions(poses, 0, motions)
        np.testing.assert_array_equal(found.rig_from_window, poses)
        assert np.isnan(found.metre) and np.isnan(found.step_sigma).all()

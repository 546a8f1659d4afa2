"""Windows in which the car stands: their steps vanish, and their scale stays that of the network's depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.refine.problem import inverse
from pipeline.refine.refine_window import refine_window
from pipeline.refine.refinement import adjust_window
from pipeline.refine.rig_frames import Mount
from pipeline.refine.rig_window import refine_rig_window
from pipeline.refine.tracks import Tracks
from pipeline.refine.triangulate import placed_by_depth
from pipeline.refine.window import Window
from tests.refine.rig_scene import CAMERAS, RIG, rig_drive
from tests.refine.scene import CAMERA, Scene, drive

_SHAKE = 0.003  # metres: the engine runs
_SAID = 0.05  # metres: steps that the network says of a car that stands


def standing(frames: int = 16) -> Scene:
    """A car that stands and shakes; one track in eight is of other traffic, which moves through the picture."""
    scene = drive(frames=frames, noise=0.15, bend=0.1, step=_SHAKE)
    rows = scene.tracks
    moving = rows.track % 8 == 0
    xy = rows.xy + np.where(moving, 3.0 * rows.frame, 0.0)[:, None] * (1.0, 0.1)
    return replace(scene, tracks=Tracks(rows.track, rows.frame, xy))


def imagined(window: Window) -> Window:
    """The window with steps of the network that are errors alone."""
    poses = window.cam_from_window.copy()
    poses[1:, :3, 3] += np.cumsum(np.random.default_rng(0).normal(0, _SAID, (len(poses) - 1, 3)), axis=0)
    return replace(window, cam_from_window=poses)


def steps(cam_from_window: np.ndarray) -> float:
    centre = inverse(cam_from_window)[:, :3, 3]
    return float(np.sqrt((np.diff(centre, axis=0) ** 2).sum(1).mean()))


def test_a_car_that_stands_keeps_the_networks_scale_and_hardly_moves() -> None:
    scene = standing()
    window = imagined(scene.window(turn=0.002))
    result = refine_window(window, scene.tracks, CAMERA, scene.grid, 1.0)
    assert result.accepted[0]
    assert not result.log_scale.any() and not result.correction.any()
    assert steps(result.cam_from_window) < 0.25 * steps(window.cam_from_window)


def test_cameras_of_a_car_that_stands_keep_the_networks_scale_and_hardly_move() -> None:
    scene = rig_drive(instants=10, noise=0.15, points=600, step=_SHAKE, swing=0.02)
    window = scene.window(turn=0.01, shift=_SAID)
    result = refine_rig_window(window, scene.tracks, CAMERA, scene.grid, 1.0, Mount.of(RIG))
    assert result.accepted[0]
    assert not result.log_scale.any() and not result.correction.any()
    front = slice(None, None, CAMERAS)
    assert steps(result.cam_from_window[front]) < 0.5 * steps(window.cam_from_window[front])


def test_a_car_that_drives_is_adjusted_by_its_parallax() -> None:
    scene = drive(frames=8, points=500)
    adjusted = adjust_window(scene.window(), scene.tracks, CAMERA, scene.grid)
    assert adjusted is not None and adjusted.moves


def test_points_lie_at_the_depth_near_the_middle_of_their_tracks() -> None:
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = (0.0, -1.0, -2.0)  # the camera moves to the right
    frame, point = np.array([0, 1, 2, 0, 1, 0]), np.array([0, 0, 0, 1, 1, 2])
    log_depth = np.log([5.0, 10.0, 20.0, 4.0, np.nan, np.nan])
    xy = np.tile(CAMERA[2:], (6, 1))
    points = placed_by_depth(poses, CAMERA, frame, point, xy, log_depth)
    np.testing.assert_allclose(points[:2], [[1, 0, 10], [0, 0, 4]])
    assert np.isnan(points[2]).all()

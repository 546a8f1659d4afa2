"""Corners of the road hold the scale of a window where dense depth has another error in each part of a street."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.refine.problem import inverse
from pipeline.refine.refine_window import refine_window
from pipeline.refine.tracks import Tracks, together
from pipeline.refine.window import Window
from tests.refine.scene import CAMERA, NET, SOURCE, Array, Scene, drive

FRAMES, HEIGHT = 40, 1.6
DOWN = np.array([0.0, 1.0, 0.0])
DRIFT = np.linspace(-0.06, 0.06, FRAMES)  # of the log of dense depth of the road


def road_tracks(scene: Scene) -> Tracks:
    """Corners of the road, numbered after the scene's tracks."""
    rng = np.random.default_rng(5)
    cloud = np.stack([rng.uniform(-4, 4, 1500), np.full(1500, HEIGHT), rng.uniform(4, FRAMES + 20, 1500)], 1)
    rows = []
    for frame, pose in enumerate(inverse(scene.world_from_camera)):
        local = cloud @ pose[:3, :3].T + pose[:3, 3]
        xy = CAMERA[:2] * local[:, :2] / np.maximum(local[:, 2:], 1e-9) + CAMERA[2:] + rng.normal(0, 0.2, (1500, 2))
        seen = (local[:, 2] > 2) & (local[:, 2] < 25) & (xy > 0).all(1) & (xy < SOURCE).all(1)
        rows.append(Tracks(np.flatnonzero(seen) + 100_000, np.full(int(seen.sum()), frame), xy[seen]))
    return Tracks.sorted(*together(scene.tracks, *rows))


def ray_down(scene: Scene) -> Array:
    """(h,): the downward part of a pixel's ray, which is 1 long ahead."""
    focal, centre = scene.grid.camera_from_source(CAMERA)[1, 1:]
    return np.asarray((np.arange(NET[1]) + 0.5 - centre) / focal)


def drifting(scene: Scene) -> Window:
    """A window whose dense depth of the road drifts; above the road everything is 12 m away, as in `Scene.window`."""
    window, down = scene.window(turn=0.005, shift=0.05), ray_down(scene)
    depth = window.depth.copy()
    rows = down > 0.1
    depth[:, rows] = (HEIGHT / down[rows])[None, :, None] * np.exp(DRIFT)[:, None, None]
    return replace(window, depth=depth)


def grown(scene: Scene, tracks: Tracks) -> float:
    """By how much the log of the steps' lengths, over the true ones, changes along the refined window."""
    rows, down = ray_down(scene) > 0.15, ray_down(scene)

    def road_of(window: Window) -> tuple[Array, Array]:
        return np.log(np.median(window.depth[:, rows] * down[rows][None, :, None], axis=(1, 2))), DOWN

    result = refine_window(drifting(scene), tracks, CAMERA, scene.grid, 1.0, road_of)
    assert result.accepted[0]
    steps = [
        np.linalg.norm(np.diff(one[:, :3, 3], axis=0), axis=1)
        for one in (inverse(result.cam_from_window), scene.world_from_camera)
    ]
    logs = np.log(steps[0] / steps[1])
    return float(np.median(logs[-10:]) - np.median(logs[:10]))


def test_corners_of_the_road_hold_the_scale_against_dense_depth_that_drifts() -> None:
    scene = drive(frames=FRAMES, points=900, bend=0.0, noise=0.2)
    by_corners, by_depth = grown(scene, road_tracks(scene)), grown(scene, scene.tracks)
    assert abs(by_corners) < 0.015
    assert abs(by_depth) > 3 * abs(by_corners), "without corners of the road dense depth decides"

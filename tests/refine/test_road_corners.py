"""The camera's height above the road comes from triangulated corners, where they determine it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.refine.chunk_result import WindowResult
from pipeline.refine.grid import Grid
from pipeline.refine.problem import inverse
from pipeline.refine.road_corners import road_of_corners
from tests.refine.scene import CAMERA, NET, SOURCE

FRAMES, HEIGHT = 16, 1.6
GRID = Grid.of(SOURCE, NET)
DOWN = np.array([0.0, 1.0, 0.0])


def driven(corners: int, kerb_share: float = 0.0, seed: int = 0) -> WindowResult:
    """A level drive of a metre a frame, and corners on the road and on a kerb of 0.15 m, with noise of 0.2 pixels."""
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (FRAMES, 1, 1))
    poses[:, 2, 3] = np.arange(FRAMES)
    cloud = np.stack([rng.uniform(-4, 4, corners), np.full(corners, HEIGHT), rng.uniform(4, FRAMES + 12, corners)], 1)
    cloud[: round(kerb_share * corners), 1] -= 0.15
    cam_from_window = inverse(poses)
    points, frames, places = [], [], []
    for frame, pose in enumerate(cam_from_window):
        local = cloud @ pose[:3, :3].T + pose[:3, 3]
        xy = CAMERA[:2] * local[:, :2] / np.maximum(local[:, 2:], 1e-9) + CAMERA[2:] + rng.normal(0, 0.2, (corners, 2))
        seen = (local[:, 2] > 2) & (local[:, 2] < 25) & (xy > 0).all(1) & (xy < SOURCE).all(1)
        points.append(np.flatnonzero(seen))
        frames.append(np.full(int(seen.sum()), frame))
        places.append(xy[seen])
    seen_point = np.concatenate(points)
    order = np.argsort(seen_point, kind="stable")
    none = np.zeros(0)
    return WindowResult(
        np.ones(1, np.bool_),
        cam_from_window,
        CAMERA,
        *(none,) * 5,
        np.zeros(FRAMES - 1, np.bool_),
        cloud,
        np.arange(corners),
        np.unique(seen_point[order], return_inverse=True)[1],
        np.concatenate(frames)[order],
        np.concatenate(places)[order],
    )


def dense_road(log_error: float, tilt: float = 0.0) -> NDArray[np.float32]:
    """Depth of the road, (FRAMES, h, w), in logs wrong by `log_error`, and by `tilt` more at the bottom than at the
    horizon; sky above."""
    focal, centre = GRID.camera_from_source(CAMERA)[1, 1:]
    row = (np.arange(NET[1]) + 0.5 - centre) / focal
    with np.errstate(divide="ignore"):
        depth = np.where(row > 0.02, HEIGHT / row * np.exp(log_error + tilt * row / row.max()), 80.0)
    return np.tile(depth[None, :, None], (FRAMES, 1, NET[0])).astype(np.float32)


@pytest.mark.parametrize(("log_error", "tilt", "kerb_share"), [(0.05, 0.0, 0.0), (-0.05, 0.0, 0.2), (0.0, 0.06, 0.1)])
def test_corners_tell_the_height_where_dense_depth_is_wrong(log_error: float, tilt: float, kerb_share: float) -> None:
    dense = np.full(FRAMES, np.log(HEIGHT) + log_error)
    found = road_of_corners(driven(1500, kerb_share), dense_road(log_error, tilt), GRID, 1.0, dense, DOWN)
    assert found is not None
    heights, slope, normal = found
    assert np.median(np.abs(heights - np.log(HEIGHT))) < 0.015
    assert np.degrees(np.arccos(normal @ DOWN)) < 0.5
    assert slope.shape == (FRAMES, 3)


def test_the_slope_is_the_derivative_of_the_height_by_the_normal() -> None:
    dense = np.full(FRAMES, np.log(HEIGHT))
    found = road_of_corners(driven(1500), dense_road(0.0), GRID, 1.0, dense, DOWN)
    assert found is not None
    heights, slope, normal = found
    ahead = np.exp(heights[4]) * slope[4]  # a mean place of corners, in heights
    assert ahead @ normal == pytest.approx(np.exp(heights[4]), rel=0.02)
    assert ahead[2] > 3  # it lies ahead of the car


@pytest.mark.parametrize("corners", [0, 20])
def test_few_corners_tell_nothing(corners: int) -> None:
    dense = np.full(FRAMES, np.log(HEIGHT))
    assert road_of_corners(driven(corners), dense_road(0.0), GRID, 1.0, dense, DOWN) is None


def test_frames_in_which_dense_depth_shows_no_road_have_no_height() -> None:
    dense = np.full(FRAMES, np.log(HEIGHT))
    dense[3] = np.nan
    found = road_of_corners(driven(1500), dense_road(0.0), GRID, 1.0, dense, DOWN)
    assert found is not None
    assert np.flatnonzero(np.isnan(found[0])).tolist() == [3]

"""The height above the road is measured if there is a road, and holds the scale of a chain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import BackendConfig, join_chunks
from pipeline.backend.chunk import Chunk
from pipeline.backend.road import Heights, measure_road

HEIGHT, WIDTH, FOCAL = 24, 48, 28.0


@dataclass(frozen=True, eq=False)
class Prediction:
    frame_index: NDArray[np.int64]
    cam_from_world: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    depth: NDArray[np.float64]
    confidence: NDArray[np.float64]


def seen(frames: range, scale: float = 1.0, pitch: float = 0.0, road: bool = True, stretch: float = 0.0) -> Prediction:
    """Frames of a street: a road 1.6 below the camera and facades at 6 on either side. Without road: a noisy wall.

    stretch: by how much the chunk's log scale grows from its first frame to its last, in poses and depth.
    """
    rng = np.random.default_rng(frames.start)
    v, u = np.meshgrid(np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5, indexing="ij")
    x, y = (u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL
    down = y * np.cos(pitch) + np.sin(pitch)
    plane = np.where(down > 0.02, 1.6 / np.maximum(down, 0.02), 60.0)
    front = 6.0 / np.maximum(np.abs(x), 0.1)
    depth = np.minimum(plane, front) if road else np.full_like(x, 9.0)
    count = len(frames)
    grown = scale * np.exp(stretch * np.linspace(-0.5, 0.5, count))
    depth = depth * np.exp(rng.normal(0, 0.02, (count, HEIGHT, WIDTH))) * grown[:, None, None]
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 2, 3] = -np.cumsum(grown)
    poses[:, 2, 3] -= poses[count // 2, 2, 3]
    intrinsics = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return Prediction(np.arange(frames.start, frames.stop), poses[:, :3], intrinsics, depth, np.ones_like(depth))


def test_the_height_is_measured_for_any_pitch_of_the_camera() -> None:
    for pitch in (-0.1, 0.0, 0.12):
        road = measure_road(Chunk.read(seen(range(10), 2.0, pitch)))
        np.testing.assert_allclose(np.exp(road.log_height), 3.2, rtol=0.03)
        np.testing.assert_allclose(road.normal, [0, np.cos(pitch), np.sin(pitch)], atol=0.02)


def test_frames_without_a_road_give_no_height() -> None:
    road = measure_road(Chunk.read(seen(range(10), road=False)))
    assert np.isnan(road.log_height).all()
    assert len(Heights.of([road], [np.arange(10) - 5.0], 10.0)) == 0


def test_the_road_holds_the_scale_of_a_chain_whose_chunks_stretch() -> None:
    """The chunks' scale grows or shrinks inside, so without the road the scale of the chain is a random walk."""
    growth = np.random.default_rng(3).normal(0, 0.08, 14)
    chunks = [seen(range(k * 10, k * 10 + 20), stretch=growth[k]) for k in range(14)]

    def spread(road: bool) -> float:
        joined = join_chunks(chunks, overlap=10, config=BackendConfig(road=road))
        return float(np.log(np.linalg.norm(np.diff(joined.world_from_camera[:, :3, 3], axis=0), axis=1)).std())

    assert spread(True) < 0.7 * spread(False)


def test_without_a_road_the_setting_changes_nothing() -> None:
    chunks = [seen(range(k * 10, k * 10 + 20), road=False) for k in range(4)]
    with_road, without = (
        join_chunks(chunks, overlap=10, config=BackendConfig(road=road)).world_from_camera for road in (True, False)
    )
    np.testing.assert_array_equal(with_road, without)


def test_a_known_height_makes_a_drive_metric() -> None:
    """Chunks of a tenth and of three times the true scale. The car drives 1 m per frame; the camera is at 1.6 m."""
    chunks = [seen(range(k * 10, k * 10 + 20), scale=(0.1, 3.0)[k % 2]) for k in range(4)]
    joined = join_chunks(chunks, overlap=10, camera_height_m=1.6)
    step = np.linalg.norm(np.diff(joined.world_from_camera[:, :3, 3], axis=0), axis=1)
    assert joined.metric is not None and joined.metric.source == "height"
    np.testing.assert_allclose(np.median(step), 1.0, rtol=0.03)


def test_a_known_height_is_not_used_where_no_road_is_seen() -> None:
    chunks = [seen(range(k * 10, k * 10 + 20), road=False) for k in range(2)]
    joined = join_chunks(chunks, overlap=10, camera_height_m=1.6)
    assert joined.metric is None and "no road is seen" in joined.relative_because

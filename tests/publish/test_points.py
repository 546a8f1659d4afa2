"""Depth to world points against a plain loop, and shards of them."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest
import tyro

from pipeline import schema
from pipeline.errors import StorageError
from pipeline.publish import PublishConfig
from pipeline.publish.points import (
    PointBlock,
    ShardWriter,
    confidence_threshold,
    frame_points,
    median,
    sky_depth,
)
from tests.publish.drives import Chunks, turn


def slow_points(depth, confidence, rgb, k, world_from_camera, scale, threshold):
    """One pixel after the other, in float64."""
    rows = []
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            d, c = float(depth[v, u]), float(confidence[v, u])
            if not np.isfinite(d) or d <= 0 or not np.isfinite(c) or c < threshold:
                continue
            ray = np.linalg.inv(k) @ np.array([u + 0.5, v + 0.5, 1.0])
            camera = np.append(ray * d * scale, 1.0)
            rows.append([*(world_from_camera @ camera)[:3], *rgb[v, u], c])
    return np.array(rows)


def one_frame(seed=0):
    chunk = Chunks([range(1)], 9, 12, seed=seed)[0]
    pose = np.eye(4)
    pose[:3, :3] = turn(30, 0) @ turn(50, 1)
    pose[:3, 3] = (100.0, -3.0, 40.0)
    return chunk, pose


def test_points_agree_with_the_plain_loop():
    chunk, pose = one_frame()
    depth, confidence = chunk.depth[0], chunk.confidence[0]
    depth[0, :5] = (np.nan, np.inf, 0.0, -1.0, -np.inf)
    confidence[1, :2] = (np.nan, np.inf)
    block = frame_points(depth, confidence, chunk.rgb[0], chunk.intrinsics[0], pose, 1.7, 4.0, 5, 2)
    twin = slow_points(depth, confidence, chunk.rgb[0], chunk.intrinsics[0], pose, 1.7, 4.0)
    assert 20 < len(block) == len(twin) < depth.size
    assert np.allclose(block.xyz.T, twin[:, :3], rtol=1e-6, atol=1e-5)
    assert (twin[:, 3:6] == block.rgb.T).all() and np.allclose(block.confidence, twin[:, 6])
    assert set(block.frame_index) == {5} and set(block.chunk_index) == {2}


def test_a_depth_too_large_for_float32_gives_no_point():
    chunk, pose = one_frame()
    chunk.depth[0, 0, 0] = 3e38
    block = frame_points(chunk.depth[0], chunk.confidence[0], chunk.rgb[0], chunk.intrinsics[0], pose, 100.0, 0.0, 0, 0)
    assert np.isfinite(block.xyz).all() and len(block) == chunk.depth[0].size - 1


def test_the_threshold_is_a_share_of_the_median_of_pixels_with_a_depth():
    confidence, depth = np.array([[1.0, 2.0, 4.0, 100.0]]), np.array([[1.0, 1.0, 1.0, np.nan]])
    assert confidence_threshold(confidence, depth, 0.5) == 1.0
    assert confidence_threshold(confidence, np.full((1, 4), np.nan), 0.5) == 0.0


def test_the_median_is_the_upper_of_two_and_nan_of_none():
    assert median(np.array([5.0, 1.0, 3.0])) == 3 and median(np.array([4.0, 1.0])) == 4
    assert np.isnan(median(np.empty(0)))


def blocks(count, size, chunk=0, spread=10.0, seed=0):
    rng = np.random.default_rng(seed)
    for number in range(count):
        block = PointBlock.empty(size)
        block.xyz[:] = rng.uniform(0, spread, (3, size))
        block.rgb[:] = rng.integers(0, 256, (3, size))
        block.confidence[:] = rng.uniform(1, 5, size)
        block.frame_index[:] = number
        block.chunk_index[:] = chunk
        yield block


def rows(paths):
    tables = [pq.read_table(path) for path in paths]
    return sorted(tuple(row.values()) for table in tables for row in table.to_pylist())


def test_every_point_comes_out_once_in_shards_and_row_groups_of_bounded_size(tmp_path):
    config = PublishConfig(shard_rows=500, row_group_rows=128)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    given = list(blocks(7, 230))  # shards end inside blocks
    with ShardWriter(str(tmp_path / "out"), 1, config, scratch) as shards:
        for block in given:
            shards.append(block)
    assert [file.rows for file in shards.files] == [500, 500, 500, 110]
    assert shards.points_of_chunk.tolist() == [1610]
    paths = [tmp_path / "out" / file.path for file in shards.files]
    sizes = [
        [pq.read_metadata(p).row_group(g).num_rows for g in range(pq.read_metadata(p).num_row_groups)] for p in paths
    ]
    assert sizes == [[128, 128, 128, 116]] * 3 + [[110]]
    expected = sorted(
        (*map(float, b.xyz[:, i]), *map(int, b.rgb[:, i]), float(b.confidence[i]), int(b.frame_index[i]), 0, 0)
        for b in given
        for i in range(len(b))
    )
    assert rows(paths) == expected
    assert not list(scratch.iterdir())  # no file is left on the worker's disk


def test_a_block_larger_than_a_shard_is_divided(tmp_path):
    config = PublishConfig(shard_rows=100, row_group_rows=100)
    with ShardWriter(str(tmp_path / "out"), 1, config, tmp_path) as shards:
        shards.append(next(blocks(1, 350)))
    assert [file.rows for file in shards.files] == [100, 100, 100, 50]


def test_with_a_voxel_size_no_cube_has_two_points_in_the_whole_drive(tmp_path):
    config = PublishConfig(shard_rows=300, row_group_rows=100, voxel_size=1.0)
    given = list(blocks(20, 200, spread=8.0))  # 4000 points in 512 cubes
    with ShardWriter(str(tmp_path / "out"), 1, config, tmp_path) as shards:
        for block in given:
            shards.append(block)
    assert len(shards.files) > 1
    xyz = np.array([row[:3] for row in rows(tmp_path / "out" / file.path for file in shards.files)])
    cubes = [tuple(cell) for cell in np.floor(xyz).astype(int)]
    everywhere = {tuple(cell) for b in given for cell in np.floor(b.xyz.T).astype(int)}
    assert len(cubes) == len(set(cubes)) and set(cubes) == everywhere


def test_errors_of_an_output_that_cannot_be_written_have_their_own_kinds(tmp_path):
    (tmp_path / "file").write_text("in the way")
    config = PublishConfig(shard_rows=100, row_group_rows=100)
    with (
        pytest.raises(StorageError),
        ShardWriter(str(tmp_path / "file" / "drive"), 1, config, tmp_path) as shards,
    ):
        for block in blocks(3, 100):
            shards.append(block)


@pytest.mark.parametrize(
    "change",
    [
        {"confidence_share": -0.1},
        {"confidence_share": float("nan")},
        {"voxel_size": 0.0},
        {"voxel_size": float("inf")},
        {"voxel_memory": 1},
        {"row_group_rows": 0},
        {"shard_rows": 100},
    ],
)
def test_invalid_settings_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(PublishConfig(), **change)


def test_the_command_line_is_made_from_the_settings():
    arguments = ["--voxel-size", "0.2", "--no-with-points", "--confidence-share", "0.5"]
    assert tyro.cli(PublishConfig, args=arguments) == PublishConfig(
        with_points=False, confidence_share=0.5, voxel_size=0.2
    )


def test_points_beyond_the_limit_are_of_the_class_sky():
    chunk, pose = one_frame()
    depth, confidence = chunk.depth[0], chunk.confidence[0]
    block = frame_points(depth, confidence, chunk.rgb[0], chunk.intrinsics[0], pose, 1.7, 0.0, 5, 2, sky_depth=4.0)
    assert (block.kind == (depth.reshape(-1) > 4.0)).all() and 0 < block.kind.sum() < len(block)


def test_a_pixel_s_class_is_that_of_its_point():
    chunk, pose = one_frame()
    depth, kind = chunk.depth[0], np.zeros(chunk.depth[0].shape, np.uint8)
    kind[-1], kind[0] = schema.EGO, schema.SKY
    block = frame_points(depth, chunk.confidence[0], chunk.rgb[0], chunk.intrinsics[0], pose, 1.0, 0.0, 0, 0, 0.5, kind)
    assert (block.kind == np.where(kind == schema.EGO, schema.EGO, schema.SKY).reshape(-1)).all()


def test_sky_begins_at_far_times_the_median():
    depth = np.full((2, 4, 4), 10.0)
    depth[:, 0] = 500.0
    assert sky_depth(depth, np.full(depth.shape, 5.0), 20.0) == 200.0
    assert sky_depth(np.full((1, 2, 2), np.nan), np.ones((1, 2, 2)), 20.0) == np.inf

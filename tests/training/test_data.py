"""Batches: each chunk is relative to its reference camera, a group has one scale, and mirroring keeps the geometry."""

import numpy as np
import pytest
import torch
from PIL import Image

from models.pose_encoding import decode_pose
from pipeline.errors import DriveError
from pipeline.synthetic import DriveSpec, write_drive
from pipeline.training.data import draw_chunk, make_batch, mirrored
from pipeline.training.objective import flow_targets, points_in_reference, step_targets
from pipeline.training.stored_drives import StoredSource
from tests.training.makers import WallClip, wall_drive


def test_the_reference_camera_is_the_origin_and_comes_first():
    batch = make_batch([wall_drive(1), wall_drive(2)], 1)
    torch.testing.assert_close(batch.cam_from_reference[:, 0], torch.eye(4)[:3].expand(2, 3, 4))
    assert batch.offsets[0] == 0 and sorted(batch.offsets) == list(range(-3, 5))


def test_all_chunks_of_a_group_share_one_scale_and_groups_do_not():
    near, far = wall_drive(1), wall_drive(2)
    far = type(far)(far.images, far.depth * 3, far.world_from_camera, far.intrinsics)
    together = make_batch([near, far], 2)
    apart = make_batch([near, far], 1)
    assert together.scale[0] == together.scale[1]
    assert apart.scale[1] > 2 * apart.scale[0]
    # within a group depth keeps its proportion, chunk by chunk it is lost
    assert together.depth[1].mean() / together.depth[0].mean() > 2.5
    assert apart.depth[1].mean() / apart.depth[0].mean() < 1.2


def test_points_of_all_frames_lie_on_one_wall_in_the_reference_frame():
    batch = make_batch([wall_drive(3)], 1)
    points = points_in_reference(batch, list(range(8)))[0].reshape(-1, 3).double().numpy()
    spread = np.linalg.svd(points - points.mean(0), compute_uv=False)
    assert spread[2] / spread[0] < 1e-4


def test_points_of_a_mirrored_chunk_reproject_correctly():
    for frames in (wall_drive(4), mirrored(wall_drive(4))):
        batch = make_batch([frames], 1)
        points = points_in_reference(batch, list(range(8)))[0].reshape(-1, 3).double().numpy()
        spread = np.linalg.svd(points - points.mean(0), compute_uv=False)
        assert spread[2] / spread[0] < 1e-4


def test_the_target_encoding_decodes_to_the_cameras():
    batch = make_batch([wall_drive(5)], 1)
    pose, intrinsics = decode_pose(batch.pose_encoding, 16, 32)
    torch.testing.assert_close(pose, batch.cam_from_reference, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(intrinsics, batch.intrinsics, atol=1e-3, rtol=1e-4)


def test_flow_targets_agree_with_where_the_point_is_seen_in_the_next_frame():
    batch = make_batch([wall_drive(6)], 1)
    target, known = flow_targets(batch, 4)
    order = sorted(range(8), key=batch.offsets.__getitem__)
    here, there = order[2], order[3]
    row, column = 2, 3
    v, u = 2 + 4 * row, 2 + 4 * column
    point = points_in_reference(batch, [here])[0, 0, v, u]
    seen = batch.intrinsics[0, there] @ (
        batch.cam_from_reference[0, there, :, :3] @ point + batch.cam_from_reference[0, there, :, 3]
    )
    flow = seen[:2] / seen[2] - torch.tensor([u + 0.5, v + 0.5])
    assert known[0, here, row, column].all()
    torch.testing.assert_close(target[0, here, row, column, 2:4] * 32 / 16, flow, atol=1e-4, rtol=1e-4)
    assert not known[0, order[0], ..., :2].any() and not known[0, order[-1], ..., 2:4].any()


def test_motions_to_the_next_frame_and_back_cancel():
    batch = make_batch([wall_drive(7)], 1)
    target, known = step_targets(batch)
    order = sorted(range(8), key=batch.offsets.__getitem__)
    forth, back = target[0, order[3], 1, :3], target[0, order[4], 0, :3]
    torch.testing.assert_close(forth, -back, atol=1e-5, rtol=1e-3)
    assert known[0].sum() == 2 * 8 - 2


def test_a_chunk_longer_than_every_clip_is_refused():
    with pytest.raises(ValueError, match="no clip of the drive has 13 frames, the longest has 12"):
        draw_chunk(np.random.default_rng(0), [WallClip(0)], 13, 1, False)


def test_a_written_city_drive_trains_like_a_rendered_one(tmp_path):
    write_drive(DriveSpec(seed=3, frames=3, height=64, width=128, supersample=1), str(tmp_path), "00")
    (drive,) = StoredSource([str(tmp_path)], width=64, patch=16, least_frames=3).drives()
    frames = drive[0].read([2, 0])
    assert frames.images.shape == (2, 32, 64, 3) and frames.depth.shape == (2, 32, 64)
    full = drive[0].drive.depth(2)
    known = frames.depth[0] > 0
    # pixel (r, c) of the half-size image has its centre between source pixels 2r and 2r + 1
    np.testing.assert_array_equal(frames.depth[0][known], full[1::2, 1::2][known])
    np.testing.assert_allclose(frames.intrinsics[0, 0, 0] * 2, drive[0].drive.intrinsics[0, 0])


def test_a_drive_without_depth_or_poses_is_refused_by_name(tmp_path):
    folder = tmp_path / "sequences" / "07" / "image_0"
    folder.mkdir(parents=True)
    (tmp_path / "poses").mkdir()
    Image.new("RGB", (64, 32)).save(folder / "000000.jpg")
    with pytest.raises(DriveError, match="training needs poses"):
        StoredSource([str(tmp_path)], width=64, patch=16)
    (tmp_path / "poses" / "07.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n")
    (folder.parent / "calib.txt").write_text("P0: 50 0 32 0 0 50 16 0 0 0 1 0\n")
    with pytest.raises(DriveError, match="drive 07: training needs depth"):
        StoredSource([str(tmp_path)], width=64, patch=16)

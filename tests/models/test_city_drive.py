"""The rendered drive that comes with the network's benchmark, and errors of trajectories against it."""

import pytest
import torch

from models import open_checkpoint
from models.benchmark.city_drive import city_errors, fitted, read_drive, views, write_drive
from models.config import WEIGHTS_FOLDER


def test_a_drive_comes_back_as_it_was_written(tmp_path):
    images = torch.randint(0, 256, (3, 4, 6, 3), dtype=torch.uint8)
    positions = torch.randn(3, 3, dtype=torch.float64)
    write_drive(images, positions, tmp_path / "drive.safetensors")
    found, where = read_drive(tmp_path / "drive.safetensors")
    assert torch.equal(found.permute(0, 2, 3, 1), images) and torch.equal(where, positions)


def test_points_that_were_moved_turned_and_scaled_are_fitted_exactly():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))[0]
    rotation = rotation * torch.linalg.det(rotation)
    moved = 2.5 * points @ rotation.T + torch.tensor([1.0, -2.0, 3.0])
    torch.testing.assert_close(fitted(points, moved), moved)
    torch.testing.assert_close(fitted(moved, points), points)


def test_on_rendered_frames_bfloat16_finds_the_trajectories_that_float32_finds():
    drives, errors = views(*read_drive()), []
    for dtype in (torch.float32, torch.bfloat16):
        errors.append(city_errors(open_checkpoint(WEIGHTS_FOLDER / "city_tiny.safetensors", dtype=dtype), drives))
    assert 0.05 < errors[0] < 1.0  # % of a chunk's path
    assert errors[1] <= 1.02 * errors[0]
    assert errors[1] == pytest.approx(errors[0], rel=0.05) and errors[1] != errors[0]  # and it did run in bfloat16


def test_a_mirrored_view_has_the_mirrored_path():
    images, positions = read_drive()
    first, last, mirrored, _ = views(images, positions, 30)
    assert torch.equal(last[1], positions[-30:]) and len(last[0]) == 30
    assert torch.equal(mirrored[0].flip(3), first[0]) and torch.equal(mirrored[1].abs(), first[1].abs())
    assert trajectory_length(mirrored[1]) == pytest.approx(trajectory_length(first[1]))


def trajectory_length(positions):
    return float((positions[1:] - positions[:-1]).norm(dim=-1).sum())

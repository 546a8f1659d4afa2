"""A drive's frames: equal for equal seeds, rendered alone or in a batch, with correct depth."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline.synthetic import CityDrive


def test_a_seed_gives_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from pipeline.synthetic import CityDrive; r = CityDrive(9, 30, 28, 56).render([0, 17]);"
        "d = r.images.tobytes() + r.depth.tobytes() + r.world_from_camera.tobytes();"
        "print(hashlib.sha256(d).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout.strip()) == 64


def test_seeds_give_different_cities() -> None:
    one, other = (CityDrive(seed, 5, 28, 56).render([2]).images for seed in (1, 2))
    assert np.abs(one.astype(int) - other).mean() > 10


def test_a_frame_is_the_same_rendered_alone_and_with_others() -> None:
    drive = CityDrive(4, 40, 28, 56, supersample=2)
    together = drive.render(range(0, 40, 5))
    alone = drive.render([25])
    assert np.array_equal(together.images[5], alone.images[0])
    assert np.array_equal(together.depth[5], alone.depth[0])
    assert alone.timestamps_s == pytest.approx([2.5])


def test_images_larger_than_a_block_of_rays_have_no_seams() -> None:
    import pipeline.synthetic.drive as module

    drive = CityDrive(4, 10, 40, 80, supersample=2)
    whole = drive.render([3])
    before = module._RAYS_CPU
    try:
        module._RAYS_CPU = 3 * 80 * 4
        banded = drive.render([3])
    finally:
        module._RAYS_CPU = before
    assert np.array_equal(whole.images, banded.images)
    assert np.array_equal(whole.depth, banded.depth)


def test_supersampling_smooths_colours_and_leaves_depth_alone() -> None:
    coarse, fine = (CityDrive(15, 10, 28, 56, supersample=s).render([4]) for s in (1, 3))
    assert np.array_equal(coarse.depth, fine.depth)
    difference = np.abs(coarse.images.astype(int) - fine.images).mean((0, 3))
    assert 0 < difference.mean() < 12
    # what supersampling computes only at edges is what averaging whole images of three times the size gives
    large = CityDrive(15, 10, 84, 168).render([4]).images[0].reshape(28, 3, 56, 3, 3) / 255.0
    averaged = np.sqrt((large**2).mean((1, 3))) * 255
    assert np.abs(averaged - fine.images[0]).mean() < np.abs(averaged - coarse.images[0]).mean()
    assert np.abs(averaged - fine.images[0]).mean() < 5


def test_images_of_two_sizes_show_the_same_place() -> None:
    small, large = CityDrive(15, 10, 28, 56).render([4]), CityDrive(15, 10, 84, 168).render([4])
    assert np.array_equal(small.world_from_camera, large.world_from_camera)
    # the middle one of three rays is the same ray; the small image lacks things smaller than a third of a pixel
    assert np.isclose(small.depth[0], large.depth[0, 1::3, 1::3], rtol=1e-5).mean() > 0.995
    assert large.intrinsics[0, 0, 0] == pytest.approx(3 * small.intrinsics[0, 0, 0])


def test_depth_is_zero_for_sky_only_and_sky_is_above() -> None:
    rendered = CityDrive(15, 300, 56, 112).render(range(0, 300, 30))
    sky = rendered.depth == 0
    assert 0.02 < sky.mean() < 0.6
    assert not sky[:, 40:].any()
    assert rendered.depth.max() <= 250.5
    assert rendered.depth[:, -1].max() < 6  # the road in front of the car
    assert rendered.images.dtype == np.uint8
    assert rendered.images.shape == (10, 56, 112, 3)


def test_images_have_texture() -> None:
    rendered = CityDrive(15, 300, 56, 112).render(range(0, 300, 30))
    grey = rendered.images.astype(float).mean(3)
    near_road = np.abs(np.diff(grey[:, 40:], axis=2)).mean((1, 2))
    houses = np.abs(np.diff(grey[:, 10:28], axis=2)).mean((1, 2))
    assert (near_road > 1.5).all()
    assert np.median(houses) > 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 0}, "at least 1 frame"),
        ({"height": 4}, "8 x 8"),
        ({"supersample": 0}, "supersample"),
        ({"field_of_view": 190.0}, "field_of_view"),
    ],
)
def test_what_cannot_be_rendered_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CityDrive(1, **{"frames": 3, "height": 28, "width": 56, **arguments})


def test_frames_outside_the_drive_and_poses_of_another_shape_are_refused() -> None:
    drive = CityDrive(1, 3, 28, 56)
    with pytest.raises(IndexError, match="drive of 3"):
        drive.render([1, 3])
    with pytest.raises(ValueError, match=r"poses \(n, 4, 4\)"):
        drive.render_poses(np.eye(4))


def test_no_frames_give_empty_arrays() -> None:
    rendered = CityDrive(1, 3, 28, 56).render([])
    assert rendered.images.shape == (0, 28, 56, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_renders_the_same_as_a_cpu() -> None:
    here, there = (CityDrive(4, 40, 56, 112, supersample=2, device=d).render(range(0, 40, 8)) for d in ("cpu", "cuda"))
    close = np.abs(here.images.astype(int) - there.images).max(3) <= 2
    assert close.mean() > 0.99
    assert np.isclose(here.depth, there.depth, rtol=1e-3).mean() > 0.999

"""Ray casting against its plain twin, and depth that agrees between frames."""

import numpy as np
import pytest
import torch

from pipeline.synthetic import CityDrive, perturbed_motion
from pipeline.synthetic.layout import build_city
from pipeline.synthetic.render import FAR, Camera, Scene, cast_rays
from pipeline.synthetic.route import drive_route, small_rotation
from tests.synthetic.plain_rays import plain_cast_rays


def _camera(poses: np.ndarray, height: int = 20, width: int = 40, angle: float = 80.0) -> Camera:
    focal = width / 2 / np.tan(np.radians(angle) / 2)
    return Camera(torch.tensor(poses, dtype=torch.float32), focal, width / 2, height / 2, height, width)


def _same(camera: Camera, scene: Scene) -> tuple[float, float]:
    """Share of rays that hit the same object as in the plain twin, and the largest relative error of w among them."""
    rows = (0, camera.height)
    fast, plain = cast_rays(scene, camera, rows), plain_cast_rays(scene, camera, rows)
    same = fast.primitive == plain.primitive
    error = (fast.inverse_depth - plain.inverse_depth).abs() / plain.inverse_depth.clamp(min=1.0 / FAR)
    return float(same.float().mean()), float(error[same].max())


@pytest.mark.parametrize("seed", [3, 8])
def test_the_fast_path_finds_the_same_hits_as_the_plain_twin(seed: int) -> None:
    city = build_city(seed, extent=4)
    scene = Scene.of(city, torch.device("cpu"))
    poses = drive_route(city, 400, seed).world_from_camera[[0, 120, 230, 399]]
    turned = perturbed_motion(np.random.default_rng(seed), poses, yaw_degrees=60, pitch_degrees=15, roll_degrees=20)
    for some in (poses, turned):
        agree, error = _same(_camera(some), scene)
        assert agree >= 0.999  # a ray through the very edge of a wall may round either way
        assert error < 1e-3


def test_the_fast_path_is_right_among_leaves_and_with_a_wide_view() -> None:
    city = build_city(5, extent=4)
    scene = Scene.of(city, torch.device("cpu"))
    beside = city.leaves.centre[:3] + city.leaves.radii[:3] * [1.05, 0.0, 0.0]
    poses = np.tile(np.eye(4), (6, 1, 1))
    for k, place in enumerate(np.repeat(beside, 2, 0)):
        heading = np.pi / 2 * k
        poses[k, :3, :3] = [
            [np.sin(heading), 0, np.cos(heading)],
            [-np.cos(heading), 0, np.sin(heading)],
            [0, -1, 0],
        ]
        poses[k, :3, 3] = place
    agree, error = _same(_camera(poses, angle=120.0), scene)
    assert agree >= 0.998
    assert error < 2e-3


def test_rays_may_be_cast_in_any_parts() -> None:
    city = build_city(6, extent=4)
    scene = Scene.of(city, torch.device("cpu"))
    camera = _camera(drive_route(city, 60, 6).world_from_camera[[10, 50]])
    whole = cast_rays(scene, camera, (0, 20))
    single = _camera(camera.world_from_camera[1:].numpy())
    parts = [cast_rays(scene, single, rows) for rows in ((0, 7), (7, 20))]
    assert torch.equal(whole.primitive[800:], torch.cat([p.primitive for p in parts]))
    assert torch.equal(whole.inverse_depth[800:], torch.cat([p.inverse_depth for p in parts]))


@pytest.mark.parametrize("apart", [1, 4])
def test_depth_of_one_frame_predicts_depth_in_another(apart: int) -> None:
    drive = CityDrive(12, 260, 56, 112)
    first = drive.render(range(20, 250, 23))
    second = drive.render([n + apart for n in range(20, 250, 23)])
    errors = []
    for k in range(len(first.depth)):
        z, here = _reprojected(
            first.depth[k],
            second.depth[k],
            first.world_from_camera[k],
            second.world_from_camera[k],
            first.intrinsics[k],
        )
        errors.append(np.abs(here / z - 1))
    error = np.concatenate(errors)
    assert len(error) > 20_000
    assert np.median(error) <= 0.005
    assert np.mean(error < 0.02) > 0.8  # the rest is hidden in one of the two


def _reprojected(
    depth: np.ndarray, other: np.ndarray, pose: np.ndarray, other_pose: np.ndarray, intrinsics: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depth that points of one frame must have in another, and the depth found there."""
    rows, columns = np.nonzero(depth)
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))])
    points = np.linalg.inv(intrinsics) @ pixels * depth[rows, columns]
    relative = np.linalg.inv(other_pose) @ pose
    moved = relative[:3, :3] @ points + relative[:3, 3:]
    u, v = (intrinsics @ moved)[:2] / moved[2] - 0.5
    height, width = depth.shape
    inside = (moved[2] > 0.1) & (u >= 0) & (v >= 0) & (u < width - 1) & (v < height - 1)
    u, v, z = u[inside], v[inside], moved[2, inside]
    i, j = v.astype(int), u.astype(int)
    corners = np.stack([other[i, j], other[i, j + 1], other[i + 1, j], other[i + 1, j + 1]])
    seen = (corners > 0).all(0)
    a, b = v - i, u - j
    # 1 / depth is linear on a plane
    weights = np.stack([(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b])[:, seen]
    return z[seen], 1 / (weights / corners[:, seen]).sum(0)


def test_rotations_yaw_right_pitch_up_and_roll_right() -> None:
    zero, angle = np.zeros(1), np.array([0.1])
    ahead, right = np.array([0, 0, 1.0]), np.array([1.0, 0, 0])
    assert (small_rotation(angle, zero, zero)[0] @ ahead)[0] > 0.09
    assert (small_rotation(zero, angle, zero)[0] @ ahead)[1] < -0.09
    assert (small_rotation(zero, zero, angle)[0] @ right)[1] > 0.09

"""A window is adjusted, and its result is accepted only where held-back tracks agree with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from pipeline.errors import DriveError
from pipeline.refine.chunk_result import read_result, write_result
from pipeline.refine.evidence import held_back
from pipeline.refine.problem import Problem, inverse
from pipeline.refine.refine_window import refine_window
from pipeline.refine.refinement import adjust_window
from pipeline.refine.tracks import Tracks
from tests.refine.scene import CAMERA, drive, turned_apart


def test_bad_poses_of_a_window_become_the_true_ones_by_its_tracks() -> None:
    scene = drive()
    window = scene.window(turn=0.02, shift=0.2)
    before = turned_apart(inverse(window.cam_from_window), scene.world_from_camera)
    result = refine_window(window, scene.tracks, CAMERA, scene.grid, 1.0)
    after = turned_apart(inverse(result.cam_from_window), scene.world_from_camera)
    assert result.accepted[0]
    assert before > 0.02 and after < 0.001
    step, true_step = (
        np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
        for poses in (inverse(result.cam_from_window), scene.world_from_camera)
    )
    ratio = step / true_step
    assert ratio.std() / ratio.mean() < 0.02, "step lengths come from tracks, not from the network"


def test_the_same_window_gives_the_same_bytes() -> None:
    scene = drive(frames=8, points=500)
    window = scene.window(turn=0.01)
    one, other = (refine_window(window, scene.tracks, CAMERA, scene.grid, 1.0) for _ in range(2))
    assert one.cam_from_window.tobytes() == other.cam_from_window.tobytes()
    assert one.correction.tobytes() == other.correction.tobytes()


def test_a_window_without_tracks_keeps_the_networks_cameras() -> None:
    scene = drive(frames=6)
    window = scene.window(turn=0.01)
    result = refine_window(window, Tracks.none(), CAMERA, scene.grid, 1.0)
    assert not result.accepted[0]
    np.testing.assert_array_equal(result.applied(window, scene.grid).cam_from_window, window.cam_from_window)


def test_a_result_that_held_back_tracks_contradict_is_not_accepted() -> None:
    """The adjusted tracks have an error that the held-back ones do not have, so the adjusted poses are wrong."""
    scene = drive()
    lying = ~held_back(scene.tracks)
    xy = scene.tracks.xy.copy()
    xy[lying, 1] += (4.0 * (scene.tracks.frame % 3))[lying]
    tracks = replace(scene.tracks, xy=xy)
    result = refine_window(scene.window(), tracks, CAMERA, scene.grid, 1.0)
    assert not result.accepted[0]


def test_frames_without_tracks_keep_the_networks_motion_between_neighbours_that_are_adjusted() -> None:
    scene = drive()
    seen = (scene.tracks.frame < 6) | (scene.tracks.frame > 8)
    tracks = scene.tracks.select(seen)
    cut = Tracks.sorted(tracks.track + 10000 * (tracks.frame > 8), tracks.frame, tracks.xy)
    window = scene.window()
    adjusted = adjust_window(window, cut, CAMERA, scene.grid)
    assert adjusted is not None
    poses = inverse(adjusted.problem.cam_from_window)
    relative, network = (inverse(p[6:7])[0] @ p[7] for p in (poses, inverse(window.cam_from_window)))
    assert np.isfinite(poses).all()
    np.testing.assert_allclose(relative[:3, :3], network[:3, :3], atol=0.01)


def test_dense_depth_is_corrected_by_the_adjusted_points() -> None:
    """Depth of a flat scene with an error that grows from the left to the right of the picture."""
    scene = drive()
    flat = scene.window(turn=0.01)
    window = replace(flat, depth=flat.depth * np.exp(0.8 * np.linspace(-1, 1, 64, dtype=np.float32)))
    problem: Problem = adjust_window(flat, scene.tracks, CAMERA, scene.grid).problem  # type: ignore[union-attr]
    local = np.einsum("mij,mj->mi", problem.cam_from_window[problem.frame, :3, :3], problem.points[problem.point])
    z = (local + problem.cam_from_window[problem.frame, :3, 3])[:, 2]
    refined = refine_window(window, scene.tracks, CAMERA, scene.grid, 1.0).applied(window, scene.grid)

    def off(depth: np.ndarray) -> float:
        ratio = np.log(scene.grid.sample(depth, problem.frame, problem.xy) / z)
        return float(np.nanmedian(np.abs(ratio - np.nanmedian(ratio))))

    assert off(refined.depth) < 0.85 * off(window.depth)


def test_only_an_accepted_result_knows_how_certain_its_poses_are() -> None:
    scene = drive(frames=8, points=500)
    result = refine_window(scene.window(turn=0.01), scene.tracks, CAMERA, scene.grid, 1.0)
    assert result.accepted[0] and np.isnan(result.step_covariance[0]).all()
    deviation = result.pose_deviation
    assert deviation.shape == (8, 2) and (deviation > 0).all()
    np.testing.assert_array_equal(deviation[0], deviation[1])
    assert np.isnan(replace(result, accepted=np.zeros(1, np.bool_)).pose_deviation).all()


def test_a_result_of_a_version_without_covariances_of_steps_is_read(tmp_path: Path) -> None:
    scene = drive(frames=6)
    result = refine_window(scene.window(), Tracks.none(), CAMERA, scene.grid, 1.0)
    write_result(str(tmp_path), 3, result)
    file = tmp_path / "refined-00003.safetensors"
    tensors = load(file.read_bytes())
    tensors["covariance"] = np.zeros_like(tensors.pop("step_covariance"))
    file.write_bytes(save(tensors))
    assert np.isnan(read_result(str(tmp_path), 3).step_covariance).all()
    tensors["step_covariance"] = np.zeros((2, 6, 6))
    file.write_bytes(save(tensors))
    with pytest.raises(DriveError, match=r"refined-00003.*step_covariance: expected shape \(6, 6, 6\)"):
        read_result(str(tmp_path), 3)


def test_an_error_names_a_damaged_staged_result(tmp_path: Path) -> None:
    scene = drive(frames=6)
    result = refine_window(scene.window(), Tracks.none(), CAMERA, scene.grid, 1.0)
    write_result(str(tmp_path), 3, result)
    np.testing.assert_array_equal(read_result(str(tmp_path), 3).cam_from_window, result.cam_from_window)
    write_result(str(tmp_path), 4, replace(result, log_scale=np.full(6, np.nan)))
    with pytest.raises(DriveError, match=r"refined-00004.*log_scale: expected finite numbers"):
        read_result(str(tmp_path), 4)
    file = tmp_path / "refined-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DriveError, match="refined-00003"):
        read_result(str(tmp_path), 3)

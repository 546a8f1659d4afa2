"""The solver is compared with gtsam and with numerical derivatives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.refine import adjustment
from pipeline.refine.adjustment import adjust, step_covariance
from pipeline.refine.normal_equations import Layout
from pipeline.refine.problem import Problem, Sigmas, cost_of, inverse, project, relative_of
from pipeline.refine.refinement import adjust_window
from pipeline.refine.rotation import log
from tests.refine.scene import CAMERA, drive, turned_apart


@pytest.fixture(scope="module", params=["focal length", "principal point too"])
def problem(request: pytest.FixtureRequest) -> Problem:
    scene = drive(frames=8, points=300)
    adjusted = adjust_window(scene.window(turn=0.01, shift=0.1), scene.tracks, CAMERA, scene.grid, steps=(2, 2, 2))
    assert adjusted is not None
    return replace(adjusted.problem, free_focal=True, free_principal=request.param != "focal length")


def test_the_step_is_the_gradient_of_the_cost(problem: Problem) -> None:
    """The gradient of the normal equations is half the derivative of the cost by every unknown of frame 3 and of
    the camera."""
    state = adjustment._State.of(problem)
    gradient = state.equations(Layout.of(problem)).gradient
    begin = problem.frames * 7
    size = begin + problem.camera_unknowns
    for place in [*range(21, 28), *range(begin, size)]:
        step = np.zeros(size)
        costs = []
        for sign in (1, -1):
            step[place] = sign * 1e-6
            moved = adjustment._moved(problem, step, np.zeros_like(problem.points))
            assert moved is not None
            costs.append(cost_of(moved))
        assert gradient[place] == pytest.approx((costs[0] - costs[1]) / 4e-6, rel=2e-3, abs=1e-2)


def test_the_cost_falls_and_ends_at_a_minimum(problem: Problem) -> None:
    done = adjust(problem, 40, 1e-9)
    assert cost_of(done) < cost_of(problem)
    assert cost_of(done) == pytest.approx(cost_of(adjust(done, 20, 1e-9)), rel=1e-3)


def test_errors_of_steps_agree_with_their_covariances() -> None:
    """Over ten drives with other noise: squared errors of rotation over their variances are about 1 an axis."""
    surprise = []
    for seed in range(10):
        scene = drive(frames=8, noise=0.2, seed=seed, points=300)
        adjusted = adjust_window(scene.window(turn=0.003, shift=0.03), scene.tracks, CAMERA, scene.grid)
        assert adjusted is not None
        covariance = step_covariance(adjusted.problem)
        assert np.isnan(covariance[0]).all()
        own, true = (relative_of(one) for one in (adjusted.problem.cam_from_window, inverse(scene.world_from_camera)))
        error = log(own[:, :3, :3] @ true[:, :3, :3].transpose(0, 2, 1))
        surprise.append(np.einsum("ni,nij,nj->n", error, np.linalg.inv(covariance[1:, :3, :3]), error) / 3)
    assert 0.4 < np.mean(surprise) < 2.0


def test_a_frame_with_few_tracks_is_less_certain() -> None:
    scene = drive(frames=8, points=600)
    poor = (scene.tracks.frame == 4) & (scene.tracks.track % 12 > 0)
    adjusted = adjust_window(scene.window(), scene.tracks.select(~poor), CAMERA, scene.grid)
    assert adjusted is not None
    turn = np.diagonal(step_covariance(adjusted.problem), axis1=1, axis2=2)[:, :3].mean(1)
    assert min(turn[4], turn[5]) > 2 * np.median(turn[1:])


def test_it_agrees_with_gtsam() -> None:
    """With the same observations and robust loss, and no priors except the gauge, relative rotations agree within 0.01
    degrees."""
    gtsam = pytest.importorskip("gtsam")
    scene = drive(frames=6, points=250, noise=0.3)
    sigmas = Sigmas(turn=1e3, shift=1e6, depth=1e6, scale=1.0)
    start = adjust_window(scene.window(turn=0.005, shift=0.05), scene.tracks, CAMERA, scene.grid)
    assert start is not None
    mine = adjust(replace(start.problem, sigmas=sigmas), 60, 1e-10)
    graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    loss = gtsam.noiseModel.mEstimator.Cauchy.Create(sigmas.robust)
    noise = gtsam.noiseModel.Robust.Create(loss, gtsam.noiseModel.Isotropic.Sigma(2, sigmas.pixel))
    camera = gtsam.Cal3_S2(CAMERA[0], CAMERA[1], 0, CAMERA[2], CAMERA[3])
    key_of_frame, key_of_point = gtsam.symbol_shorthand.X, gtsam.symbol_shorthand.P
    for frame, point, xy in zip(mine.frame, mine.point, mine.xy, strict=True):
        graph.add(
            gtsam.GenericProjectionFactorCal3_S2(xy, noise, key_of_frame(int(frame)), key_of_point(int(point)), camera)
        )
    poses = inverse(start.problem.cam_from_window)
    for frame, pose in enumerate(poses):
        values.insert(key_of_frame(frame), gtsam.Pose3(pose))
        if frame == 0:
            graph.add(
                gtsam.PriorFactorPose3(key_of_frame(0), gtsam.Pose3(pose), gtsam.noiseModel.Isotropic.Sigma(6, 1e-6))
            )
    last = gtsam.Pose3(inverse(mine.cam_from_window)[-1])  # the last position holds the scale, which is free
    ties = gtsam.noiseModel.Diagonal.Sigmas(np.array([1e3, 1e3, 1e3, 1e-3, 1e-3, 1e-3]))
    graph.add(gtsam.PriorFactorPose3(key_of_frame(len(poses) - 1), last, ties))
    for number, point in enumerate(start.problem.points):
        values.insert(key_of_point(number), gtsam.Point3(*point))
    found = gtsam.LevenbergMarquardtOptimizer(graph, values).optimize()
    theirs = np.stack([found.atPose3(key_of_frame(f)).matrix() for f in range(len(poses))])
    assert turned_apart(inverse(mine.cam_from_window), theirs) < np.radians(0.01)


def test_points_behind_a_camera_do_not_end_it(problem: Problem) -> None:
    points = problem.points.copy()
    points[:5, 2] = -3
    error, _ = project(adjust(replace(problem, points=points), 5))
    assert np.isfinite(error).mean() > 0.9

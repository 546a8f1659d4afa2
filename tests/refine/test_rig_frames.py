"""The frames of a rig: derivatives of their poses, and of the cost, by the rig's unknowns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.refine import adjustment
from pipeline.refine.adjustment import adjust, metre_deviation, step_covariance
from pipeline.refine.normal_equations import Layout
from pipeline.refine.problem import Problem, cost_of, inverse
from pipeline.refine.rig_frames import Mount, RigFrames
from pipeline.refine.rig_window import RigView, adjust_rig
from pipeline.refine.rotation import exp, log
from pipeline.refine.tracks import Tracks
from tests.refine.rig_scene import CAMERAS, RIG, UNKNOWN, rig_drive
from tests.refine.scene import CAMERA


def random_rig(seed: int, instants: int = 3, late: tuple[float, ...] = ()) -> RigFrames:
    """A rig with one known and one unknown camera."""
    rng = np.random.default_rng(seed)
    mount = Mount.of(np.concatenate([RIG[:2], UNKNOWN[2:]]), np.array(late or (0, 0, 0)))
    turn = mount.turn.copy()
    turn[2] = exp(rng.normal(0, 1, (1, 3)))[0]
    poses = np.tile(np.eye(4), (instants, 1, 1))
    poses[:, :3, :3] = exp(rng.normal(0, 1, (instants, 3)))
    poses[:, :3, 3] = rng.normal(0, 3, (instants, 3))
    mount = replace(mount, turn=turn, turn_start=turn, coefficient=rng.normal(0, 1, 4), deviation=np.ones(4))
    return RigFrames(poses, mount, np.full(instants - 1, np.nan))


LATE = st.floats(-1, 1, allow_subnormal=False)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), LATE, LATE)
@example(0, 0.0, 0.0)
@example(1, 0.5, -0.25)
def test_the_jacobian_is_the_derivative_of_the_poses(seed: int, second: float, third: float) -> None:
    """The second and the third camera are later or earlier than the instants, up to a whole step."""
    rig = random_rig(seed, late=(0.0, second, third))
    jacobian = rig.jacobian.toarray()
    assert jacobian.shape == (9 * 7 + 1, 3 * 6 + 9 + 3 + 4 + 1)
    before = inverse(rig.cam_from_window)
    for place in range(jacobian.shape[1] - 1):
        step = np.zeros(jacobian.shape[1])
        step[place] = 1e-6
        moved = rig.moved(step).cam_from_window @ before
        twist = np.concatenate([log(moved[:, :3, :3]), moved[:, :3, 3]], 1) / 1e-6
        asked = jacobian[:-1, place].reshape(-1, 7)
        np.testing.assert_allclose(twist, asked[:, :6], atol=1e-4)
        own = np.flatnonzero(asked[:, 6])  # the log scales of frames follow those of the instants
        assert own.tolist() == ([place - 18] if 18 <= place < 27 else [])


def test_a_late_camera_is_between_the_instants_and_others_are_where_they_were_to_the_bit() -> None:
    late = random_rig(3, late=(0.0, 0.0, 0.5))
    rig = replace(late, mount=replace(late.mount, late=np.zeros(3)))
    np.testing.assert_array_equal(late.cam_from_window[:6], rig.cam_from_window[:6])
    car = inverse(inverse(late.mount.cam_from_rig[2:]) @ late.cam_from_window[6:])
    instants = inverse(rig.rig_from_window)
    here = [*instants[:2], instants[2]]
    half = [inverse(one[None])[0] @ two for one, two in zip(here, car, strict=True)]
    np.testing.assert_allclose(instants[0] @ half[0] @ half[0], instants[1], atol=1e-9)
    np.testing.assert_allclose(instants[1] @ half[1] @ half[1], instants[2], atol=1e-9)
    np.testing.assert_allclose(car[2] @ inverse(half[2][None])[0], instants[2], atol=1e-9)
    np.testing.assert_allclose(instants[1] @ half[2] @ half[2], instants[2], atol=1e-9)


def test_a_camera_of_known_rotation_and_unknown_place_has_three_unknowns_of_its_own() -> None:
    known = RIG.copy()
    known[2, :3, 3] = np.nan
    mount = Mount.of(known)
    assert mount.is_metric and not mount.free_turn.any()
    np.testing.assert_allclose(mount.turn, RIG[:, :3, :3].transpose(0, 2, 1))
    assert len(mount.coefficient) == 4
    moved = replace(mount, coefficient=np.array([2.0, 0.3, -0.1, 0.5])).place
    np.testing.assert_allclose(moved, [2 * RIG[0, :3, 3], 2 * RIG[1, :3, 3], [0.3, -0.1, 0.5]])
    known[1, :3, 3] = np.nan
    assert not Mount.of(known).is_metric


@pytest.fixture(scope="module")
def problem() -> Problem:
    """A window whose second and third camera are free."""
    scene = rig_drive(instants=6, points=300)
    view = RigView.of(scene.window(turn=0.01, shift=0.05), scene.tracks, CAMERAS)
    assert view is not None
    mount = replace(Mount.of(UNKNOWN), turn=RIG[:, :3, :3].transpose(0, 2, 1))
    found = adjust_rig(view, view.tracks, CAMERA, scene.grid, replace(mount, turn_start=mount.turn))
    assert found is not None
    coarse = np.arange(len(found.problem.frame)) % 3 == 0
    return replace(found.problem, free_focal=True, coarse=coarse)


def test_the_step_is_the_gradient_of_the_cost(problem: Problem) -> None:
    """Half the derivative of the cost by every unknown of the third instant, of some frames, of the mount, and by the
    log focal length."""
    assert problem.rig is not None
    spoilt = problem.rig.moved(np.random.default_rng(0).normal(0, 2e-3, problem.rig.jacobian.shape[1]))
    problem = replace(problem, rig=spoilt, cam_from_window=spoilt.cam_from_window)
    state = adjustment._State.of(problem)
    equations = state.equations(Layout.of(problem))
    _, gradient = spoilt.projected(equations.frames, equations.gradient)
    size = len(gradient)
    for place in [*range(12, 18), 40, 50, *range(size - 13, size)]:
        step = np.zeros(size)
        costs = []
        for sign in (1, -1):
            step[place] = sign * 1e-6
            moved = adjustment._moved(problem, step, np.zeros_like(problem.points))
            assert moved is not None
            costs.append(cost_of(moved))
        assert gradient[place] == pytest.approx((costs[0] - costs[1]) / 4e-6, rel=5e-3, abs=0.05)


def test_points_that_two_cameras_see_are_eliminated_as_in_a_dense_matrix() -> None:
    scene = rig_drive(instants=5, points=250)
    view = RigView.of(scene.window(turn=0.01, shift=0.05), scene.tracks, CAMERAS)
    assert view is not None
    rows = view.tracks
    merged = Tracks.sorted(rows.track // CAMERAS * CAMERAS, rows.frame, rows.xy)  # the street's points are numbered so
    mount = replace(Mount.of(RIG), coefficient=np.ones(1))
    found = adjust_rig(view, merged, CAMERA, scene.grid, mount)
    assert found is not None
    problem = replace(found.problem, free_focal=True)
    assert problem.coarse is not None and 0.1 < problem.coarse.mean() < 0.9
    of_camera = problem.frame // 5
    assert np.intersect1d(problem.point[of_camera == 0], problem.point[of_camera == 2]).size > 20
    equations = adjustment._State.of(problem).equations(Layout.of(problem))
    reduced = equations.reduced(problem, Layout.of(problem), 1e-9)
    count, size = len(problem.points), 7 * problem.frames
    cross = np.zeros((problem.frames, 7, count, 3))
    np.add.at(cross, (problem.frame, slice(None), problem.point), equations.cross.transpose(2, 1, 0))
    lower = np.zeros((count, 3, 3))
    for number, (i, j) in enumerate(((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))):
        lower[:, i, j] = lower[:, j, i] = equations.points[number]
    flat = cross.reshape(size, count, 3)
    gone = np.einsum("apx,pxy,bpy->ab", flat, np.linalg.inv(lower), flat)
    asked = (equations.frames[:size, :size] - gone)[6:, 6:]
    np.testing.assert_allclose(reduced.matrix[6:size, 6:size], asked, atol=1e-6 * np.abs(asked).max())


def test_the_cost_falls_and_the_mount_stays_rigid(problem: Problem) -> None:
    done = adjust(problem, 20, 1e-7)
    assert cost_of(done) < cost_of(problem) and done.rig is not None
    np.testing.assert_allclose(done.cam_from_window, done.rig.cam_from_window, atol=1e-12)
    covariance = step_covariance(done)
    begins = ~np.isfinite(covariance).all((1, 2))
    assert np.flatnonzero(begins).tolist() == [0, 6, 12]  # the first frame of each camera has no step
    assert np.linalg.eigvalsh(covariance[~begins]).min() > 0


def test_how_well_a_metre_is_known_does_not_depend_on_the_unit_of_the_window() -> None:
    """It is compared with the path, whose length in units is arbitrary; more turns tell more."""
    said = []
    for unit, swing in ((1.0, 0.5), (0.1, 0.5), (1.0, 0.25)):
        scene = rig_drive(instants=8, points=400, swing=swing)
        view = RigView.of(scene.window(turn=0.01, shift=0.05, unit=unit), scene.tracks, CAMERAS)
        assert view is not None
        found = adjust_rig(view, view.tracks, CAMERA, scene.grid, Mount.of(RIG))
        assert found is not None
        said.append(metre_deviation(found.problem))
        assert found.problem.rig is not None
        mount = replace(found.problem.rig.mount, coefficient=np.zeros(1))
        nowhere = replace(found.problem, rig=replace(found.problem.rig, mount=mount))
        assert metre_deviation(nowhere) == np.inf
    assert said[1] == pytest.approx(said[0], rel=0.05) and said[2] > said[0]

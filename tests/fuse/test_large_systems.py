"""Eliminating a city by areas gives the same solution as one factorisation, and a factor can be used again."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.backend.config import BackendConfig
from pipeline.backend.normal_equations import factorised
from pipeline.backend.sim3 import Sim3, rotation_exp
from pipeline.fuse import city_equations, dissection, large_systems
from pipeline.fuse.city_equations import assembled, gradient_of, joint_rows, link_rows, product_of, settled
from pipeline.fuse.dissection import order_of
from pipeline.fuse.drive_nodes import State, joints_of, own_state
from pipeline.fuse.large_systems import Factor, LargeSystem
from pipeline.fuse.solve import _link_rows
from tests.fuse.made_up_drives import drive_in, link_between, town_path

FRAMES, GAUGES = 800, [Sim3.identity()] * 2


@pytest.fixture
def town():
    """Two drives with links, their chunks a little away from the solution: count of chunks, state, joints, links."""
    truths = [town_path(FRAMES, 0.0), town_path(FRAMES, 10.0)]
    drives = [drive_in(gauge, truth) for gauge, truth in zip(GAUGES, truths, strict=True)]
    links = [link_between(GAUGES, truths, (0, n + 10, 1, n)) for n in range(5, FRAMES - 10, 60)]
    states = [own_state(drive) for drive in drives]
    count = len(states[0].scale)
    rows = _link_rows(links, drives, np.array([0, count, 2 * count]))
    parts = [joints_of(drive, BackendConfig(), 0.1).numbered_from(n * count) for n, drive in enumerate(drives)]
    joints = type(parts[0]).joined(parts)
    state = State(*(np.concatenate([getattr(one, name) for one in states]) for name in State.__dataclass_fields__))
    off = np.random.default_rng(0).normal(0, 1, (2 * count, 7)) * ([0.002] * 3 + [0.05] * 3 + [0.002])
    state = State(
        state.scale * np.exp(off[:, 6]), rotation_exp(off[:, :3]) @ state.rotation, state.translation + off[:, 3:6]
    )
    return 2 * count, state, joints, rows


def test_areas_give_the_step_and_the_solution_of_one_factorisation(town, monkeypatch):
    count, state, joints, rows = town
    groups = [joint_rows(state, joints), link_rows(state, rows)]
    matrix, gradient = assembled(count, groups, [0])
    np.testing.assert_allclose(gradient, gradient_of(count, groups))
    vector = np.random.default_rng(1).normal(size=len(gradient))
    np.testing.assert_allclose(product_of(groups, [0], vector), matrix @ vector, rtol=1e-9)
    monkeypatch.setattr(dissection, "_LEAF", 4)
    monkeypatch.setattr(dissection, "_MANY", 12)
    monkeypatch.setattr(large_systems, "_PANEL", 21)
    monkeypatch.setattr(large_systems, "_ACCURACY", 1e-9)
    step = LargeSystem().solve(lambda v: matrix @ v, lambda: matrix, -gradient, state.translation)
    at_once = factorised(matrix.tocsc()).solve(-gradient)
    np.testing.assert_allclose(step, at_once, atol=1e-7 * np.abs(at_once).max())
    whole = settled(state, joints, rows, [0])
    monkeypatch.setattr(city_equations, "_DIRECTLY", 50)
    by_areas = settled(state, joints, rows, [0])
    np.testing.assert_allclose(by_areas.translation, whole.translation, atol=1e-5)
    np.testing.assert_allclose(by_areas.scale, whole.scale, atol=1e-6)


def test_an_earlier_factor_solves_equations_that_changed_a_little_and_a_new_one_others(town):
    count, state, joints, rows = town
    matrix, gradient = assembled(count, [joint_rows(state, joints), link_rows(state, rows)], [0])
    few = assembled(count, [joint_rows(state, joints), link_rows(state, rows[np.arange(1, len(rows))])], [0])[0]
    rng = np.random.default_rng(0)
    stretch = scipy.sparse.diags_array(np.exp(rng.normal(0, 3, len(gradient))))
    system, made = LargeSystem(), []

    def solution(of):
        def matrix_now():
            made.append(of)
            return of

        found = system.solve(lambda v: of @ v, matrix_now, -gradient, state.translation)
        error = found - factorised(of.tocsc()).solve(-gradient)
        assert error @ (of @ error) < 1e-8 * (found @ (of @ found))
        return len(made)

    assert [solution(matrix), solution(few), solution((stretch @ matrix @ stretch).tocsc())] == [1, 1, 2]


def test_a_matrix_that_is_not_positive_definite_has_no_factor():
    with pytest.raises(np.linalg.LinAlgError):
        Factor(scipy.sparse.diags_array(-np.ones(14), format="csc"), np.zeros((2, 3)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(0, 2**32 - 1), st.sampled_from([3.0, 10.0, 40.0]))
def test_every_chunk_is_eliminated_once_and_areas_touch_only_their_borders(count, seed, far):
    rng = np.random.default_rng(seed)
    place = rng.uniform(0, 100, (count, 3))
    near = np.linalg.norm(place[:, None] - place, axis=2) < far
    order = order_of(scipy.sparse.csr_matrix(near.astype(np.float32)), place)
    assert sorted(order.order.tolist()) == list(range(count))
    assert np.concatenate([part.own for part in order.parts]).tolist() == list(range(count))
    below = [set(part.own.tolist()) for part in order.parts]
    near = near[order.order][:, order.order]
    for number, part in enumerate(order.parts):
        for area in part.areas:
            below[number] |= below[area]
        inside = sorted(below[number])
        touched = set(np.flatnonzero(near[inside].any(0)).tolist()) - below[number]
        assert touched == set(part.border.tolist())
    assert set().union(*(below[end] for end in order.ends)) == set(range(count))

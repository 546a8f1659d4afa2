"""Solving a city by areas gives the same result as one factorisation."""

import numpy as np

from pipeline.backend.config import BackendConfig
from pipeline.backend.sim3 import Sim3, rotation_exp
from pipeline.fuse import city_equations, large_systems
from pipeline.fuse.city_equations import assembled, joint_rows, link_rows, settled
from pipeline.fuse.drive_nodes import State, joints_of, own_state
from pipeline.fuse.solve import _link_rows
from tests.fuse.made_up_drives import drive_in, link_between, town_path


def test_areas_and_cells_give_the_step_of_one_factorisation(monkeypatch):
    frames, every = 800, [Sim3.identity()] * 2
    truths = [town_path(frames, 0.0), town_path(frames, 10.0)]
    drives = [drive_in(gauge, truth) for gauge, truth in zip(every, truths, strict=True)]
    links = [link_between(every, truths, (0, n + 10, 1, n)) for n in range(5, frames - 10, 60)]
    states = [own_state(drive) for drive in drives]
    count = len(states[0].scale)
    rows = _link_rows(links, drives, np.array([0, count, 2 * count]))
    parts = [joints_of(drive, BackendConfig(), 0.1).numbered_from(n * count) for n, drive in enumerate(drives)]
    joints = type(parts[0]).joined(parts)
    rng = np.random.default_rng(0)
    state = State(*(np.concatenate([getattr(one, name) for one in states]) for name in State.__dataclass_fields__))
    off = rng.normal(0, 1, (2 * count, 7)) * ([0.002] * 3 + [0.05] * 3 + [0.002])
    state = State(
        state.scale * np.exp(off[:, 6]), rotation_exp(off[:, :3]) @ state.rotation, state.translation + off[:, 3:6]
    )
    matrix, gradient = assembled(2 * count, [joint_rows(state, joints), link_rows(state, rows)], [0])
    monkeypatch.setattr(large_systems, "_AREA", 25)
    monkeypatch.setattr(large_systems, "_CELL", 6)
    monkeypatch.setattr(large_systems, "_ACCURACY", 1e-9)
    step = large_systems.Areas(matrix, state.translation).solve(matrix, -gradient)
    at_once = large_systems.factorised(matrix).solve(-gradient)
    np.testing.assert_allclose(step, at_once, atol=1e-4 * np.abs(at_once).max())
    whole = settled(state, joints, rows, [0])
    monkeypatch.setattr(city_equations, "_DIRECTLY", 50)
    by_areas = settled(state, joints, rows, [0])
    np.testing.assert_allclose(by_areas.translation, whole.translation, atol=1e-3)
    np.testing.assert_allclose(by_areas.scale, whole.scale, atol=1e-5)

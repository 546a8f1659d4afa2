"""The analytic derivatives of the pose graph's residuals."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.backend.chunk import Chunk
from pipeline.backend.config import BackendConfig
from pipeline.backend.normal_equations import WIDTH, linearised, residuals, retract
from pipeline.backend.overlap import measure_overlap
from pipeline.backend.pose_graph import solve_chain


def test_derivatives_agree_with_finite_differences(make: Callable[..., Any]) -> None:
    config = BackendConfig()
    chunks = [Chunk.read(c) for c in make(seed=0, limit=200, loops=0).chunks]
    overlaps = [measure_overlap(a, b, (n, n + 1), config) for n, (a, b) in enumerate(pairwise(chunks))]
    assert all(o is not None for o in overlaps)
    solution = solve_chain([o for o in overlaps if o is not None], len(chunks), 59.0, config)
    state, rows = solution.state, solution.rows
    jacobian = linearised(state, rows)[1]
    before = residuals(state, rows)
    for column in range(WIDTH):
        step = np.zeros((len(chunks) + 1, WIDTH))
        step[2, column] = 1e-6
        change = (residuals(retract(state, step), rows) - before) / 1e-6
        expected = np.zeros_like(change)
        expected[rows.first == 2] += jacobian[rows.first == 2, :, column]
        expected[rows.second == 2] += jacobian[rows.second == 2, :, WIDTH + column]
        # Derivatives by a drift rate are taken at zero drift, here of a few hundredths.
        allowed = 0.03 * max(1.0, float(np.abs(expected).max()))
        assert float(np.abs(change - expected).max()) < allowed
    step = np.zeros((len(chunks) + 1, WIDTH))
    step[-1, 0] = 1e-6
    change = (residuals(retract(state, step), rows) - before) / 1e-6
    np.testing.assert_allclose(change, jacobian[:, :, -1], atol=1e-5)

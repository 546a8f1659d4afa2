"""CPU cores needed beside a rank: they depend on the stages of a run; a cluster with too few of them is reported."""

import json

import pytest

from pipeline.config import RunConfig
from pipeline.fleet.plan.cpu_budget import STAGE_COSTS, CpuBudget


def test_a_run_without_refinement_needs_no_cores_for_adjustment():
    whole, plain = (CpuBudget.of(RunConfig(refine=refine), 80.0) for refine in (True, False))
    assert set(whole.core_seconds) - set(plain.core_seconds) == {"adjustment"}
    assert whole.cores_a_rank > plain.cores_a_rank > 0
    assert json.loads(STAGE_COSTS.read_text())["machine"] in whole.source


def test_cores_grow_with_the_rate_and_too_few_are_reported_with_the_rate_that_they_allow():
    budget = CpuBudget({"decoding": 0.01, "joining": 0.01, "publishing": 0.02}, "measured here", 50.0)
    assert budget.cores_a_rank == pytest.approx(2.0)
    enough, few = (budget.said("GPU", cores) for cores in (2.0, 1.0))
    assert "2.0 cores a GPU" in enough and "add CPU nodes" not in enough and "publishing 1.0" in enough
    assert "this cluster has 1.0: expect 25.0 frames/s, or add CPU nodes" in few

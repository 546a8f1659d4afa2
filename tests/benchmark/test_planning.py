"""The benchmark of planning, with a simulated S3 server and everything else as in a run."""

import json

import pytest

from jobs.benchmark import main
from pipeline.benchmark.planning import PlanningBenchmark


@pytest.mark.cluster
def test_a_small_fleet_is_found_listed_and_planned(capsys):
    words = ["--what", "planning", "--planning.drives", "3", "--planning.frames", "1203", "--json", "-"]
    assert main([*words, "--planning.processes", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["planned"] == 3 and found["frames"] == found["names"] == 3 * 1203
    assert found["seconds"] > 0 and found["driver_cpu_seconds"] > 0 and found["memory_bytes"] > 0


@pytest.mark.parametrize("wrong", [{"drives": 0}, {"frames": 0}])
def test_settings_that_cannot_be_measured_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"planning\.{next(iter(wrong))}"):
        PlanningBenchmark(**wrong)

"""The fleet benchmark runs the real driver: it publishes all drives, and its figures are consistent."""

import json

import pytest

from jobs.benchmark import main
from pipeline.benchmark.fleet import FleetBenchmark
from pipeline.fleet.records.ledger import read_run


def test_a_small_fleet_is_run_and_its_figures_are_consistent(tmp_path, capsys):
    words = ["--what", "fleet", "--json", "-", "--fleet.drives", "30", "--fleet.groups", "4", "--fleet.frames", "200"]
    words += ["--fleet.speed-up", "200", "--fleet.output", str(tmp_path)]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    run = read_run(str(tmp_path))
    assert run.counts["published"] == 30 and run.info.groups == 4
    assert 0 < found["busy"] <= 1 and found["makespan_seconds"] >= found["ideal_seconds"]
    assert found["starts"] >= 4 and found["ledger_bytes"] > 0 and found["memory_peak_bytes"] > 10**7


@pytest.mark.parametrize("wrong", [{"drives": 0}, {"speed_up": 0.5}, {"start_s": -1}])
def test_settings_that_cannot_be_measured_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"fleet\.{next(iter(wrong))}"):
        FleetBenchmark(**wrong)

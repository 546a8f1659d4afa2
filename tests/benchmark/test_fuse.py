"""The benchmark of fusing: made-up drives through one city are found, joined and judged."""

import json

import pytest

from jobs.benchmark import main
from pipeline.benchmark.fuse import FuseBenchmark


def test_a_small_city_is_measured_and_no_wrong_link_is_accepted(tmp_path, capsys):
    file = tmp_path / "fuse.json"
    assert main(["--what", "fuse", "--fuse.drives", "12", "--fuse.frames", "800", "--json", str(file)]) in (0, 1)
    said = json.loads(file.read_text())
    assert said["links"] > said["wrong"] > 0 and said["wrong_accepted"] == 0
    assert (
        said["one_more_seconds"] > 0 and said["one_more_cpu_seconds"] > 0 and said["one_more_m"] < 3
    )  # where all drives together put it
    assert said["largest"] > 1 and said["ate_m"] < 10
    assert "one more drive" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [{"drives": 2}, {"frames": 10}, {"wrong": 1.0}])
def test_settings_that_cannot_be_measured_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"fuse\.{next(iter(wrong))}"):
        FuseBenchmark(**wrong)

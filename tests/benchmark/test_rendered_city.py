"""The benchmark of a rendered city: its drives, links and change are compared with the truth."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest

from jobs.benchmark import main
from jobs.synthesize import main as synthesize
from pipeline.backend.sim3 import Sim3
from pipeline.benchmark.rendered_city import CityBenchmark, shared_metres
from pipeline.common.progress import Reporter
from pipeline.fuse import FuseConfig, run_fuse
from pipeline.synthetic import read_drive
from tests.fuse.rendered_drives import GAUGES, publish
from tests.fuse.test_opposite import along


def test_a_city_of_true_drives_has_true_links_and_no_error(tmp_path, capsys):
    """Drives with their true depths, each in its own frame and units, are fused, and the benchmark finds no error."""
    root, out = tmp_path / "rendered", tmp_path / "out"
    size = ["--drives", "2", "--frames", "40", "--height", "112", "--width", "224", "--supersample", "1"]
    assert synthesize(["--output", str(root), "--city", "5", "--seed", "30", *size]) == 0
    for name, gauge in zip(("00", "01"), (Sim3.identity(), GAUGES[1]), strict=True):
        known = json.loads((root / "sequences" / name / "city.json").read_text())
        true = read_drive(str(root), name)
        seen = SimpleNamespace(
            poses=np.array(known["city_from_first"]) @ true.world_from_camera,
            images=np.stack([true.image(n) for n in range(40)]),
            depth=np.stack([true.depth(n) for n in range(40)]),
            intrinsics=true.intrinsics,
        )
        publish(out, tmp_path / name, name, seen, gauge)
    run_fuse(FuseConfig(str(out), similarity=0.4, copc=False), Reporter(io.StringIO()))
    file = tmp_path / "city.json"
    asked = ["--city.rendered", str(root), "--city.output", str(out)]
    assert main(["--what", "city", *asked, "--json", str(file)]) == 0
    said = json.loads(file.read_text())
    assert said["drives"] == said["largest"] == 2 and said["links"] >= 1 and said["wrong_links"] == 0
    assert said["link_error_m"] < 0.5 and said["ate_m"] < 0.3 and said["alone_m"] < 1e-6
    assert said["car_found"] is None and said["trees_changed"] == 0
    assert "accepted link" in capsys.readouterr().out


def test_the_shared_length_of_two_drives_counts_each_direction():
    paths = [along((0, 0, 0), (0, 0, 200)), along((3, 0, 120), (3, 0, 300)), along((5, 0, 90), (5, 0, 0))]
    share = shared_metres([one.city_from_camera for one in paths])
    assert share[0, 1][0] == pytest.approx(80, abs=12) and share[0, 1][1] == 0
    assert share[0, 2][1] == pytest.approx(90, abs=12) and share[0, 2][0] == 0
    assert share[1, 2] == (0, 0)


def test_both_places_must_be_given():
    with pytest.raises(ValueError, match=r"--city\.rendered"):
        CityBenchmark(output="somewhere").measure(lambda line: None)

"""A whole run on frames of a lens that nobody calibrated: the result is that of a known lens."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import synthesize
from pipeline.evaluation import compare, evaluate, open_estimate, open_truth
from pipeline.publish import open_drive
from pipeline.synthetic.lens import named_lens
from tests.jobs.runs import run

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.usefixtures("one_ray")]


@pytest.mark.parametrize("lens", ["barrel", "fisheye"])
def test_a_lens_without_calibration_is_found_and_the_drive_passes(lens: str, tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    size = ["--width", "448", "--height", "224"]
    assert synthesize.main([str(root), "--frames", "60", "--seed", "8100100", "--lens", lens, *size]) == 0
    sequence = root / "sequences" / "00"
    assert run("--input", sequence, "--output", out, "--camera.file", "none") == 0
    result = open_drive(str(out), "00")
    assert result.manifest.quality["verdict"] == "pass" and result.lens is not None
    true = named_lens(lens, 448, 224)
    assert abs(result.lens.fx / true.fx - 1) < 0.03
    assert evaluate(compare(open_estimate(str(out), "00"), open_truth(str(sequence)))).trajectory.sim3.ate.percent < 0.5

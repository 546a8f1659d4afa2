import json

import pytest

from jobs.benchmark import main
from pipeline.benchmark.cameras import CamerasBenchmark, _rows


def drive(plain, bent, *, warned=True):
    def run(ate, lens):
        return {"seed": 1, "ate": ate, "path": 100.0, "verdict": "warn", "warned": lens}

    return {
        "pinhole as barrel": run(plain, False),
        "barrel": run(bent, False),
        "barrel, not calibrated": run(9.0, warned),
    }


def test_a_lens_meets_its_targets_by_the_median_error_and_by_warnings_without_calibration():
    met = _rows("barrel", [drive(1.0, 1.1), drive(2.0, 2.1), drive(1.5, 4.0)])
    assert [row.met for row in met] == [False, None, True, True]  # median errors 2.1 and 1.5
    assert [row.met for row in _rows("barrel", [drive(1.0, 1.1), drive(2.0, 2.1, warned=False)])][2:] == [False, True]
    assert _rows("barrel", [drive(1.0, 1.1)])[0].met


def test_a_setting_of_too_few_frames_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"cameras\.frames must be at least 30, not 3"):
        CamerasBenchmark(frames=3)


@pytest.mark.full
def test_drives_with_two_lenses_are_compared_with_pinhole_drives(capsys):
    settings = ("--cameras.drives", "1", "--cameras.frames", "40", "--json", "-")
    assert main(["--what", "cameras", *settings]) == 0
    (found,) = json.loads(capsys.readouterr().out)["drives"]
    assert len(found) == 6 and all(run["ate"] < 5 for run in found.values())
    assert found["fisheye, not calibrated"]["warned"]

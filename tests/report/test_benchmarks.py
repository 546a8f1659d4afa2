"""Files of stored benchmarks are read as runs to draw; other files give a one-line error."""

import json

import pytest

from pipeline.errors import DriveError
from pipeline.report.benchmarks import Measurement, read_benchmarks


def stored(path, value):
    path.write_text(json.dumps(value))
    return str(path)


def test_the_seconds_of_a_run_are_the_sum_of_its_stages(tmp_path):
    run = {"frames": 300, "seconds": {"scan": 1.0, "forward": 9.0}, "total_seconds": 10.0, "peak_resident_bytes": 5}
    file = stored(tmp_path / "drive.json", {"what": "drive", "runs": [run]})
    assert read_benchmarks([file]) == (Measurement("drive", 300, 10.0, 5),)


def test_runs_are_found_on_the_top_level_and_in_lists(tmp_path):
    one = stored(
        tmp_path / "one.json",
        {"what": "decode", "settings": {"frames": 7, "seconds": 1}, "frames": 200, "seconds": 1.5},
    )
    many = stored(
        tmp_path / "many.json",
        {
            "what": "drive",
            "runs": [
                {"frames": 600, "seconds": 6.5, "peak_bytes": 2**30},
                {"frames": 300, "seconds": 3.0, "peak_bytes": None},
            ],
        },
    )
    assert read_benchmarks([one, many]) == (
        Measurement("decode", 200, 1.5, None),
        Measurement("drive", 300, 3.0, None),
        Measurement("drive", 600, 6.5, 2**30),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is no JSON file"), ("[1]", "does not say what"), ('{"what": "x", "frames": true}', "no run with frames")],
)
def test_a_file_that_is_no_benchmark_gives_a_one_line_error(tmp_path, text, said):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(DriveError, match=said):
        read_benchmarks([str(tmp_path / "file.json")])

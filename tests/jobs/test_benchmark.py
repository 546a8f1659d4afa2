"""The command that measures: a table for people, JSON for machines."""

import json

import pytest

from jobs.benchmark import main


def test_decoding_is_measured_with_machine_versions_and_commit(tmp_path, capsys):
    file = tmp_path / "decode.json"
    arguments = ["--what", "decode", "--decode.frames", "16", "--decode.width", "200", "--decode.height", "100"]
    assert main([*arguments, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    said = json.loads(file.read_text())
    assert said["what"] == "decode"
    assert said["settings"]["frames"] == said["frames"] == 16
    assert said["frames_per_core_second"] == pytest.approx(16 / said["cpu_seconds"])
    assert said["network_size"] == [518, 252]
    assert said["machine"]["versions"]["torch"].startswith("2.")
    assert said["machine"]["commit"] in out
    assert "100 JPEG/s" in out
    assert main([*arguments, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 16


@pytest.mark.parametrize("wrong", [["--what", "weather"], ["--what", "decode", "--decode.frames", "0"]])
def test_what_cannot_be_measured_is_a_usage_error_that_names_it(wrong, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(wrong)
    assert stopped.value.code == 2
    assert wrong[-2].strip("-") in capsys.readouterr().err

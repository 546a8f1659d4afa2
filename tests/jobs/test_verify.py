"""jobs.verify: its output and exit code, for one drive and for many, in threads and in Ray tasks."""

import json
import shutil

import pytest

from jobs import verify
from pipeline.fleet import verify_output
from pipeline.fleet.verify_output import verify_drives
from pipeline.publish import PublishConfig, publish_drive
from tests.publish.drives import small_drive


@pytest.fixture
def out(tmp_path):
    """Four drives, and folders that are no drives."""
    drive = small_drive()
    for number in range(4):
        made = small_drive(drive_id=f"d{number}", seed=number)
        publish_drive(str(tmp_path / "out"), made.facts, made.chunks, made.joined, PublishConfig(), drive.run)
    (tmp_path / "out" / "_runs").mkdir()
    (tmp_path / "out" / "raw").mkdir()
    return tmp_path / "out"


def check(out, *arguments):
    return verify.main(["--output", str(out), *map(str, arguments)])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_an_undamaged_output_is_reported_as_such(out, capsys):
    assert check(out) == 0
    assert "4 of 4 drives" in capsys.readouterr().out
    assert check(out, "--quick") == 0
    assert "names and sizes" in capsys.readouterr().out


def test_damage_is_reported_with_drive_file_and_how_to_repair_it(out, capsys):
    flip(out / "d1" / "points" / "part-00000.parquet")
    (out / "d2" / "poses.parquet").unlink()
    assert check(out, "--quick") == 1
    assert "d2  poses.parquet: is gone" in capsys.readouterr().out
    assert check(out) == 1
    said = capsys.readouterr().out
    assert "2 of 4 drives" in said and "d1  points/part-00000.parquet" in said and "sha256" in said
    assert "--overwrite" in said and "--only d1" in said
    assert check(out, "--drive", "d0", "d3") == 0


def test_findings_can_be_written_as_json(out, tmp_path, capsys):
    flip(out / "d1" / "chunks.parquet")
    assert check(out, "--json", "-") == 1
    values = json.loads(capsys.readouterr().out)
    assert (values["whole"], values["damaged"], values["quick"]) == (3, 1, False)
    assert [drive["drive_id"] for drive in values["drives"]] == ["d0", "d1", "d2", "d3"]
    assert values["drives"][1]["problems"][0]["file"] == "chunks.parquet" and not values["drives"][1]["whole"]
    assert check(out, "--json", tmp_path / "found.json") == 1
    assert json.loads((tmp_path / "found.json").read_text())["damaged"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--drive", "ghost"), "no published drive ghost"), (("--drive", "../d1"), "../d1"), (("--drive", "raw"), "raw")],
)
def test_a_missing_output_or_drive_gives_a_one_line_error(out, capsys, arguments, said):
    assert check(out, *arguments) == 1
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_an_output_without_drives_is_an_error(tmp_path, capsys):
    assert check(tmp_path / "nowhere") == 1
    (tmp_path / "empty").mkdir()
    assert check(tmp_path / "empty") == 1
    assert "no published drive" in capsys.readouterr().err


def test_a_drive_that_vanishes_during_the_check_is_not_counted(out):
    def told(done):
        shutil.rmtree(out / "d3", ignore_errors=True)

    found = verify_drives(str(out), ["d0", "d3"], quick=True, told=told, in_cluster=False)
    assert found[0].drive_id == "d0" and all(one.is_whole or one.problems for one in found)


@pytest.mark.cluster
@pytest.mark.usefixtures("one_ray")
def test_ray_tasks_check_many_drives_with_the_same_findings(out, monkeypatch, capsys):
    flip(out / "d1" / "points" / "part-00000.parquet")
    assert check(out, "--json", "-") == 1
    by_threads = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(verify, "FEW_DRIVES", 2)
    used = []
    monkeypatch.setattr(verify_output, "_by_threads", lambda *_: used.append("threads"))
    assert check(out, "--json", "-") == 1
    by_tasks = json.loads(capsys.readouterr().out)
    for values in (by_threads, by_tasks):
        values.pop("checked_at")
        for drive in values["drives"]:
            drive.pop("seconds")
    assert by_tasks == by_threads and not used

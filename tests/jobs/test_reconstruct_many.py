"""Many drives by one command: missing results are made, bad drives are reported, and other drives are not affected."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.fleet.records.ledger import list_runs, read_run
from pipeline.leases import Leases
from pipeline.publish import is_published, open_drive
from tests.jobs.conftest import folder_of_images, image
from tests.jobs.runs import PLAIN, left_over, results, run, states

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("one_ray")]


def test_a_folder_of_drives_is_done_once_and_only_changed_drives_are_done_again(weights, tmp_path, capsys):
    fleet, out = tmp_path / "fleet", tmp_path / "out"
    for name, count in (("a", 7), ("b", 15), ("c", 5), ("bad", 9)):
        folder_of_images(fleet / name, count)
    for number in range(4):
        (fleet / "bad" / f"frame{number}.png").write_bytes(b"")
    (fleet / "empty.mp4").write_bytes(b"")
    arguments = ("--input", fleet, "--output", out, "--weights", weights, "--fleet.retry-after-s", 0)

    assert run(*arguments, "--plan") == 1  # one drive cannot be read
    said = capsys.readouterr().out
    assert "4 to do, 1 cannot be read" in said and "36 frames in 9 chunks" in said
    plan = json.loads(next((out / "_plans").iterdir()).read_text())
    assert [row["drive_id"] for row in plan["rows"]] == ["b", "bad", "a", "c"]  # the longest drive comes first
    assert list(plan["bad"]) == ["empty"] and plan["requests"] > 50
    assert not results(out)

    assert run(*arguments) == 1
    said = capsys.readouterr().out
    assert states(out) == {"a": "published", "b": "published", "c": "published", "bad": "failed", "empty": "failed"}
    assert "3 published, 2 failed" in said and "4 of 9 frames are bad" in said and "--retry-failed" in said
    rows = read_run(str(out)).rows
    assert rows["b"].frames == 15 and rows["b"].points == open_drive(str(out), "b").manifest.counts.points > 0
    assert {"find", "forward", "join", "publish"} <= set(rows["b"].seconds) and rows["b"].frames_per_s > 0
    assert rows["b"].attempts == 1 and rows["b"].verdict and rows["b"].bytes > 1000
    assert rows["bad"].stage.startswith("forward") and rows["empty"].stage == "find"
    assert not left_over(out)
    before = results(out)
    assert sorted(before) == ["a", "b", "c"]

    with Leases(str(out), "dead", 600) as dead:  # a run that died before it released the drive
        lease = dead.take("b")
        Path(lease.uri).write_bytes(lease.text.replace(f'"pid": {lease.claim.pid}'.encode(), b'"pid": 999999999'))
        dead._held.clear()
    assert run(*arguments) == 0  # no drive changed
    assert not left_over(out)
    assert "nothing to do" in capsys.readouterr().out
    assert set(states(out).values()) == {"skipped"}
    assert "failed before" in read_run(str(out)).rows["bad"].reason

    image(30).save(fleet / "a" / "frame7.png")  # one drive gets one more frame
    for number in range(4):
        image(number).save(fleet / "bad" / f"frame{number}.png")  # the bad drive is repaired
    assert run(*arguments, "--only", "[!b]*", "--limit", 1) == 0
    assert states(out) == {"a": "published", "c": "skipped", "empty": "skipped"}
    assert open_drive(str(out), "a").poses.num_rows == 8
    assert run(*arguments) == 0
    assert states(out)["bad"] == "published"
    after = results(out)
    assert {name: after[name] for name in "bc"} == {name: before[name] for name in "bc"}
    assert not list(out.rglob("_version-*")) and not left_over(out)
    assert len(list_runs(str(out))) == 4
    single = tmp_path / "single"
    assert run("--input", fleet / "b", "--output", single, "--weights", weights) == 0
    assert results(single)["b"] == after["b"]  # a drive of a run over many equals the same drive alone
    assert is_published(str(single), "b", open_drive(str(out), "b").manifest.identity)


def test_a_drive_list_gives_ids_ranges_and_tags_and_retry_failed_does_only_the_failed_drives(weights, tmp_path, capsys):
    folder_of_images(tmp_path / "frames", 15)
    drives = [
        {"drive_id": "first", "uri": str(tmp_path / "frames"), "start": 0, "end": 6, "tags": ["rain"]},
        {"drive_id": "second", "uri": str(tmp_path / "frames"), "start": 6, "end": 15},
        {"drive_id": "gone", "uri": str(tmp_path / "nowhere")},
        {"drive_id": "../up", "uri": str(tmp_path / "frames")},
    ]
    manifest, out = tmp_path / "drives.jsonl", tmp_path / "out"
    manifest.write_text("".join(json.dumps(one) + "\n" for one in drives))
    arguments = ("--input", manifest, "--output", out, "--weights", weights, "--fleet.retry-after-s", 0)
    assert run(*arguments) == 1
    said = capsys.readouterr().out
    found = states(out)
    assert (found["first"], found["second"], found["gone"], found["../up"]) == (
        "published",
        "published",
        "failed",
        "failed",
    )
    assert "nowhere" in said
    assert open_drive(str(out), "first").poses.num_rows == 6 and open_drive(str(out), "second").poses.num_rows == 9
    assert not list(tmp_path.parent.glob("up")) and sorted(p.name for p in out.iterdir() if p.name[0] != "_") == [
        "first",
        "second",
    ]
    shutil.copytree(tmp_path / "frames", tmp_path / "nowhere")
    assert run(*arguments, "--retry-failed") == 1
    assert states(out) == {"gone": "published", "../up": "failed"}  # a bad row is reported until it is corrected
    assert run(*arguments, "--only", "rain") == 0
    assert states(out) == {"first": "skipped"}


def test_one_drive_id_for_several_views_is_refused(tmp_path, capsys):
    arguments = ("--input", tmp_path, "--output", tmp_path / "out", "--drive-id", "a")
    assert run(*arguments, "--camera.views", "front,left") != 0
    assert "--camera.views makes a drive of each view: leave out --drive-id" in capsys.readouterr().err


@pytest.mark.full
def test_every_view_of_a_sphere_becomes_a_drive(weights, tmp_path):
    folder_of_images(tmp_path / "pano", 9)
    views = ("--camera.file", "equirectangular", "--camera.views", "front,left")
    assert run("--input", tmp_path / "pano", "--output", tmp_path / "out", "--weights", weights, *PLAIN, *views) == 0
    drives = [open_drive(str(tmp_path / "out"), name) for name in ("pano-front", "pano-left")]
    front, left = (drive.lens for drive in drives)
    assert front.cx == front.width / 2 and left.cx == front.width / 4
    assert all(drive.manifest.counts.frames_ok == 9 for drive in drives)

"""A damaged small file of one drive affects this drive only: the run does the other drives and ends in time."""

import json
import time

import pytest

from pipeline.errors import PipelineError
from pipeline.leases import LEASES_FOLDER
from pipeline.publish import PublishConfig, publish_drive
from tests.fleet.standins import World
from tests.publish.drives import small_drive

DEEP = "[" * 100_000 + "]" * 100_000
NAMES = ["d1", "d2", "d3", "d4"]
CLAIM = {"owner": "x", "host": "h", "machine": "m", "pid": 1, "until": 0, "working": True, "deaths": 0, "nonce": "n"}


def published(output):
    """A real result of d1, made from an input in another place."""
    drive = small_drive(6, drive_id="d1")
    publish_drive(str(output), drive.facts, drive.chunks, drive.joined, PublishConfig(), drive.run)
    return output / "d1" / "manifest.json"


def manifest(change):
    def damage(output):
        path = published(output)
        values = json.loads(path.read_text())
        values.pop("checksum")
        text = change(values)
        path.write_text(text if isinstance(text, str) else json.dumps(values))

    return damage


def lease(**values):
    def damage(output):
        (output / LEASES_FOLDER).mkdir()
        (output / LEASES_FOLDER / "d1.json").write_text(json.dumps(CLAIM | values))

    return damage


def text_in(*path, text):
    def damage(output):
        place = output.joinpath(*path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    return damage


DAMAGES = {
    "manifest nested without end": (manifest(lambda m: '{"schema_version":' + DEEP + "}"), "failed"),
    "manifest with a box of nothing": (manifest(lambda m: m["files"][0].update(box=[])), "failed"),
    "manifest of schema Infinity": (manifest(lambda m: m.update(schema_version=float("inf"))), "failed"),
    "manifest of null": (manifest(lambda m: "null"), "failed"),
    "half a manifest": (manifest(lambda m: json.dumps(m)[:200]), "failed"),
    "manifest that is a folder": (lambda output: (output / "d1" / "manifest.json").mkdir(parents=True), None),
    "drive's folder that is a file": (text_in("d1", text="x"), None),
    "lease until a text": (lease(until="soon"), "published"),
    "lease with deaths as a text": (lease(deaths="a"), "published"),
    "lease nested without end": (text_in(LEASES_FOLDER, "d1.json", text=DEEP), "published"),
    "lease until the year 3 * 10^10": (lease(until=1e18, length_s=1e18), None),
    "lease of a machine whose clock is a day ahead": (lease(until=time.time() + 86_400, length_s=1.0), "published"),
    "failure record nested without end": (text_in("_failed", "d1.json", text=DEEP), "published"),
    "failure record that is a list": (text_in("_failed", "d1.json", text="[1, 2]"), "published"),
    "staged note nested without end": (text_in("_staging", "d1", "staged.json", text=DEEP), "published"),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr("pipeline.leases._CLOCK_SKEW_S", 0.2)
    monkeypatch.setattr("pipeline.leases._LONGEST_S", 1.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", DAMAGES)
def test_the_other_drives_are_published_and_the_damaged_drive_is_reported_by_name(tmp_path, name):
    damage, becomes = DAMAGES[name]
    output = tmp_path / "out"
    output.mkdir()
    damage(output)
    begun = time.monotonic()
    run = World().run(output, NAMES, fleet={"lease_s": 1.0})
    states = {drive_id: row.state for drive_id, row in run.rows.items()}
    assert [states[drive_id] for drive_id in NAMES[1:]] == ["published"] * 3
    assert states["d1"] == becomes if becomes else states["d1"] in ("published", "failed")
    if states["d1"] == "failed":
        reason = run.rows["d1"].reason
        assert "d1" in reason and "\n" not in reason and "a bug" not in reason and len(reason) < 1000
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("folder", ["_leases", "_failed"])
def test_a_file_in_the_place_of_a_folder_of_the_run_gives_one_error_that_names_it(tmp_path, folder):
    (tmp_path / folder).write_text("x")
    try:
        run = World().run(tmp_path, NAMES)
    except PipelineError as error:
        assert folder in str(error)
    else:
        assert all(row.state == "published" or folder in row.reason for row in run.rows.values())

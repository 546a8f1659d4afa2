"""Notes on unused parts of an input are in the run's record, in the plan, and in the result of a drive beside them."""

from dataclasses import replace

from pipeline.finish import notes_beside
from pipeline.fleet.records.ledger import Ledger, RunInfo, RunState, read_run
from pipeline.fleet.status.run_report import render_run_report
from pipeline.fleet.status.summary import status_text

NOTED = ["/data/raw/oxts holds no pictures", "/data/other/lidar holds no pictures", "s3://b/raw/oxts holds no pictures"]


def test_a_drive_takes_the_notes_about_its_folder_and_those_beside_it():
    assert notes_beside(NOTED, "/data/raw/image_02") == (NOTED[0],)
    assert notes_beside(NOTED, "/data/raw/image_02/data") == (NOTED[0],)
    assert notes_beside(NOTED, "s3://b/raw/image_02") == (NOTED[2],)
    assert notes_beside(NOTED, "/data/none/image_02") == () == notes_beside(NOTED, "/drive")
    assert len(notes_beside([f"/data/raw/{n} holds no pictures" for n in range(99)], "/data/raw/a")) == 20


def test_a_run_stores_and_shows_the_notes_on_its_input(tmp_path):
    with Ledger(str(tmp_path), RunInfo("20260101T000000-run")) as ledger:
        ledger.update_run(state="finished", notes=tuple(NOTED))
    run = read_run(str(tmp_path))
    assert run.info.notes == tuple(NOTED)
    assert all(note in status_text(run) and note in render_run_report(run) for note in NOTED)
    without = RunState(replace(run.info, notes=()), {})
    assert "oxts" not in status_text(without)

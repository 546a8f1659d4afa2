"""A ledger that cannot be written is reported at once and at the end of the run; the drives are done all the same."""

import shutil

import pytest

from pipeline.fleet.records import ledger as ledgers
from pipeline.fleet.records.ledger import read_run
from pipeline.fleet.run import fleet_summary
from tests.fleet.standins import World


class Heard:
    """A reporter that keeps its lines."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def __getattr__(self, name):
        return lambda *arguments, **more: None


def put_a_file_in_its_place(output):
    """A file in the place of the folder: even root cannot write below it."""
    shutil.move(output / "_runs", output / "_runs.away")
    (output / "_runs").write_bytes(b"")


def bring_it_back(output):
    (output / "_runs").unlink()
    shutil.move(output / "_runs.away", output / "_runs")


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(ledgers, "WRITE_EVERY_S", 0.02)
    return World()


def wait_until(heard, text):
    import time

    end = time.monotonic() + 20
    while not any(text in one for one in heard.said):
        assert time.monotonic() < end, heard.said
        time.sleep(0.01)


def test_a_ledger_that_cannot_be_written_is_reported_during_the_run_and_at_its_end(tmp_path, world):
    heard = Heard()

    def on_go(drive_id):
        if drive_id == "d2":
            put_a_file_in_its_place(tmp_path)
            wait_until(heard, "cannot be written")

    world.on_go = on_go
    run = world.run(tmp_path, ["d1", "d2", "d3"], heard)
    assert {row.state for row in run.rows.values()} == {"published"}
    assert len([one for one in heard.said if "the ledger cannot be written" in one]) == 1
    assert run.info.state == "finished" and "could not be written" in run.info.message
    said = fleet_summary(run, str(tmp_path))
    assert "jobs.status does not know" in said and "report.html" not in said


def test_a_ledger_that_can_be_written_again_is_complete_and_the_run_does_not_fail(tmp_path, world):
    heard = Heard()

    def on_go(drive_id):
        if drive_id == "d1":
            put_a_file_in_its_place(tmp_path)
            wait_until(heard, "cannot be written")
            bring_it_back(tmp_path)
            wait_until(heard, "written again")

    world.on_go = on_go
    run = world.run(tmp_path, ["d1", "d2"], heard)
    assert run.info.message is None
    assert read_run(str(tmp_path)).in_state("published") == run.in_state("published")


def test_a_ledger_that_can_never_be_written_ends_the_run_before_it_begins(tmp_path, world):
    (tmp_path / "_runs").write_bytes(b"")
    with pytest.raises(ValueError, match="_runs"):
        world.run(tmp_path, ["d1"], Heard())
    assert not world.tries

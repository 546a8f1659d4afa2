"""The ledger of a run can be read while it is written, needs few requests for a long run, and survives a kill."""

import time

import pytest

from pipeline import storage
from pipeline.common.run_id import new_run_id
from pipeline.errors import DriveError
from pipeline.fleet.records import ledger as ledgers
from pipeline.fleet.records.ledger import DriveRow, Ledger, RunInfo, list_runs, read_run, run_uri
from tests.s3_server import s3, s3_server  # noqa: F401


def rows(count):
    return [DriveRow(f"drive-{n:03d}", f"s3://bucket/{n}", frames=n, tags=("a",)) for n in range(count)]


def test_changes_are_read_back_during_the_run_and_after_it(tmp_path):
    output = str(tmp_path)
    with Ledger(output, RunInfo("run-1", input="s3://in")) as ledger:
        ledger.add(rows(5))
        ledger.update("drive-001", state="running", group=0)
        ledger.update("drive-001", seconds={"forward": 2.0})
        ledger.update("drive-001", seconds={"forward": 1.0, "join": 0.5})
        ledger.update("drive-002", state="failed", reason="frame 7 is bad", stage="find", frame=7)
        ledger.flush()
        seen = read_run(output, "run-1")
        assert seen.counts == ledger.counts()
        assert (seen.counts["queued"], seen.counts["running"], seen.counts["failed"]) == (3, 1, 1)
        assert seen.rows == ledger.rows and seen.info.state == "running"
        assert seen.rows["drive-001"].seconds == {"forward": 3.0, "join": 0.5}
        assert seen.rows["drive-001"].started_at and seen.rows["drive-002"].ended_at
        ledger.update("drive-001", state="published")
        ledger.update_run(state="finished")
    after = read_run(output)
    assert after.info.state == "finished" and after.rows["drive-001"].state == "published"
    assert [row.drive_id for row in after.in_state("failed", "published")] == ["drive-001", "drive-002"]


def test_changes_are_written_without_a_call_to_flush(tmp_path, monkeypatch):
    monkeypatch.setattr(ledgers, "WRITE_EVERY_S", 0.02)
    with Ledger(str(tmp_path), RunInfo("run-1")) as ledger:
        ledger.add(rows(1))
        end = time.monotonic() + 10
        while not read_run(str(tmp_path)).rows and time.monotonic() < end:
            time.sleep(0.02)
        assert read_run(str(tmp_path)).rows == ledger.rows


def test_a_long_run_is_read_in_few_requests_and_shows_the_newest_states(tmp_path, monkeypatch):
    monkeypatch.setattr(ledgers, "MERGED_PARTS", 4)
    monkeypatch.setattr(ledgers, "WRITE_EVERY_S", 1000)
    with Ledger(str(tmp_path), RunInfo("run-1")) as ledger:
        ledger.add(rows(20))
        for n in range(203):
            ledger.update(f"drive-{n % 20:03d}", attempts=n)
            ledger.flush()
        parts = [f.name for f in storage.list_files(run_uri(str(tmp_path), "run-1")) if f.name != "run.json"]
        assert len(parts) <= 3 * 4
        assert read_run(str(tmp_path)).rows == ledger.rows


def test_a_writer_that_is_killed_while_it_merges_leaves_parts_with_the_same_contents(tmp_path, monkeypatch):
    monkeypatch.setattr(ledgers, "MERGED_PARTS", 4)
    removed = []
    monkeypatch.setattr(storage, "remove_file", removed.append)  # as if the writer were killed before every removal
    with Ledger(str(tmp_path), RunInfo("run-1")) as ledger:
        ledger.add(rows(6))
        for n in range(30):
            ledger.update(f"drive-{n % 6:03d}", attempts=n)
            ledger.flush()
    assert removed
    assert read_run(str(tmp_path)).rows == ledger.rows


def test_a_run_without_a_heartbeat_is_shown_as_lost(tmp_path, monkeypatch):
    with Ledger(str(tmp_path), RunInfo("run-1")):
        assert read_run(str(tmp_path)).info.state == "running"
        monkeypatch.setattr(ledgers, "LOST_AFTER_S", -1.0)
        assert read_run(str(tmp_path)).info.state == "lost"


def test_the_newest_run_is_read_and_a_missing_or_damaged_one_gives_an_error(tmp_path):
    output = str(tmp_path)
    assert list_runs(output) == []
    with pytest.raises(DriveError, match="no run was ever made"):
        read_run(output)
    for run_id in ("20260101T000000-a", "20260102T000000-a"):
        with Ledger(output, RunInfo(run_id)):
            pass
    assert read_run(output).info.run_id == list_runs(output)[-1] == "20260102T000000-a"
    with pytest.raises(DriveError, match="no run other"):
        read_run(output, "other")
    storage.write_bytes_atomically(storage.join(run_uri(output, "20260102T000000-a"), "run.json"), b"{")
    with pytest.raises(DriveError, match="damaged"):
        read_run(output)
    assert len({new_run_id() for _ in range(50)}) == 50


def test_a_store_that_fails_for_a_while_loses_no_change(tmp_path, monkeypatch):
    with Ledger(str(tmp_path), RunInfo("run-1")) as ledger:
        write = storage.write_bytes_atomically

        def broken(uri, data):
            raise storage.UnreachableError("no answer")

        monkeypatch.setattr(storage, "write_bytes_atomically", broken)
        ledger.add(rows(3))
        with pytest.raises(storage.UnreachableError):
            ledger.flush()
        monkeypatch.setattr(storage, "write_bytes_atomically", write)
        ledger.flush()
        assert read_run(str(tmp_path)).rows == ledger.rows


@pytest.mark.cluster
def test_a_ledger_on_s3_is_read_like_one_on_a_disk(s3):  # noqa: F811
    output = f"{s3}/ledger"
    with Ledger(output, RunInfo("run-1")) as ledger:
        ledger.add(rows(40))
        for n in range(40):
            ledger.update(f"drive-{n:03d}", state="published")
            ledger.flush()
        assert read_run(output).rows == ledger.rows
        assert list_runs(output) == ["run-1"]

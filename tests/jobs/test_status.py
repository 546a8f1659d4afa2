"""jobs.status reads a ledger during a run and after it, from a disk and from a bucket."""

import io
import threading
from dataclasses import replace

import pytest

from jobs.status import main
from pipeline.common.progress import Reporter
from pipeline.fleet.records.ledger import DriveRow, Ledger, RunState
from pipeline.fuse.progress import RunningFuse
from tests.fleet.runs import made_up_run
from tests.s3_server import s3, s3_server  # noqa: F401


def write_run(output, run):
    with Ledger(str(output), replace(run.info, started_at=0.0)) as ledger:
        ledger.add(run.rows.values())


def test_a_finished_run_is_shown_with_its_failures(tmp_path, capsys):
    run = made_up_run(40)
    write_run(tmp_path, run)
    assert main(["--output", str(tmp_path), "--report", str(tmp_path / "run.html")]) == 0
    said = capsys.readouterr().out
    assert f"run {run.info.run_id}: finished" in said and f"{len(run.in_state('published'))} published" in said
    assert all(row.drive_id in said for row in run.in_state("failed", "quarantined"))
    assert run.info.run_id in (tmp_path / "run.html").read_text()
    assert main(["--output", str(tmp_path), "--runs"]) == 0
    assert f"{run.info.run_id}  finished" in capsys.readouterr().out


def test_after_a_run_with_nothing_to_do_the_output_and_the_run_before_are_shown(tmp_path, capsys):
    worked = made_up_run(40)
    published, failed = worked.in_state("published"), worked.in_state("failed", "quarantined")
    write_run(tmp_path, worked)
    for number in range(2):  # as a scheduled run
        rows = [DriveRow(row.drive_id, state="skipped", reason="published already") for row in published]
        again = "--retry-failed tries it again"
        rows += [
            DriveRow(
                row.drive_id,
                state="skipped",
                stage=row.stage,
                reason=f"{row.state} before, and nothing changed ({again}): {row.reason}",
            )
            for row in failed
        ]
        info = replace(worked.info, run_id=f"20260922T00000{number}-abcdef")
        write_run(tmp_path, RunState(info, {row.drive_id: row for row in rows}))
    assert main(["--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "run 20260922T000001-abcdef: finished" in said and f"{len(published)} published already" in said
    assert f"run {worked.info.run_id} was the last to do something: {len(published)} published" in said
    assert all(row.drive_id in said for row in failed) and "--retry-failed" in said.split("retry ")[-1]


@pytest.mark.cluster
def test_a_run_on_s3_is_watched_to_its_end(s3, capsys):  # noqa: F811
    run = made_up_run(20, "running")
    rows = list(run.rows.values())
    ledger = Ledger(f"{s3}/watched", replace(run.info, started_at=0.0))
    with ledger:
        ledger.add(rows[:5])
        ledger.flush()

        def finish():
            ledger.add(rows)
            ledger.update_run(state="finished")
            ledger.flush()

        timer = threading.Timer(2.0, finish)
        timer.start()
        assert main(["--output", f"{s3}/watched", "--watch", "--every", "1"]) == 0
        timer.join()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{run.info.run_id}  running") and "5 drives" in lines[0]
    assert any(line.startswith(f"run {run.info.run_id}: finished") for line in lines)


def test_a_run_of_fuse_is_watched_to_its_end(tmp_path, capsys):
    running = RunningFuse(Reporter(io.StringIO()), str(tmp_path), "20260922T000000-abcdef")
    timer = threading.Timer(1.5, running.end, ("finished", "city 000001, 2 drives"))
    timer.start()
    assert main(["--output", str(tmp_path), "--watch", "--every", "1"]) == 0
    timer.join()
    first, *_, last = capsys.readouterr().out.splitlines()
    assert "running" in first and last.endswith("finished: city 000001, 2 drives")
    assert main(["--output", str(tmp_path), "--report", str(tmp_path / "run.html")]) == 1
    assert "no run was ever made" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "no run was ever made"), (["--run", "x"], "no run x"), (["--every", "0"], "--every must be at least")],
)
def test_a_run_that_cannot_be_shown_gives_a_one_line_error(tmp_path, capsys, arguments, said):
    assert main(["--output", str(tmp_path), *arguments]) == 1
    assert said in capsys.readouterr().err

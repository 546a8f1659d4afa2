"""The summary of a ledger in words: counts, rates, time left, failures by kind."""

from dataclasses import replace

import pytest

from pipeline.common.sizes import size_text
from pipeline.fleet.records.ledger import DriveRow, RunState
from pipeline.fleet.status.summary import duration, failure_kinds, retry_command, status_text, summarise
from tests.fleet.runs import BEGIN, made_up_run


def test_the_summary_counts_drives_frames_and_points():
    run = made_up_run(100)
    total = summarise(run)
    published = run.in_state("published")
    assert total.drives == 100 == sum(total.counts.values())
    assert total.frames == sum(row.frames for row in published)
    assert total.seconds["forward"] == pytest.approx(sum(row.gpu_seconds for row in published))
    assert total.gpu_busy == pytest.approx(total.gpu_seconds / (8 * total.wall_s))
    assert total.left_s is None  # nothing is left


def test_gpu_hours_include_drives_that_are_in_the_network_now():
    run = made_up_run(10, "running", failed_share=0)
    done = summarise(run).gpu_seconds
    at_work = DriveRow("w", state="running", started_at=BEGIN + 40, gpus=4, gpu_seconds=100.0)  # from an earlier try
    for now, more in ((50, 100 + 4 * 10), (90, 100 + 4 * 50), (30, 100)):
        live = RunState(replace(run.info, updated_at=BEGIN + now), {**run.rows, "w": at_work})
        assert summarise(live).gpu_seconds == pytest.approx(done + more)


def test_the_time_left_is_estimated_from_frames():
    run = made_up_run(10, "running", failed_share=0)
    rows = {name: replace(row, frames=100) for name, row in run.rows.items()}
    # a drive that is not planned yet counts as one of mean length
    rows |= {f"q{k}": DriveRow(f"q{k}", frames=200 if k else 0) for k in range(5)}
    info = replace(run.info, started_at=BEGIN, updated_at=BEGIN + 100)
    assert summarise(RunState(info, rows)).left_s == pytest.approx(100 * (4 * 200 + 100) / (10 * 100))
    assert summarise(RunState(replace(info, listed=False), rows)).left_s is None


def test_failures_that_differ_only_in_names_and_numbers_are_one_kind():
    run = made_up_run(300)
    kinds = failure_kinds(run)
    assert len(kinds) == 3 and len(kinds[0].drive_ids) >= len(kinds[-1].drive_ids)
    assert sum(len(kind.drive_ids) for kind in kinds) == len(run.in_state("failed", "quarantined"))


def test_the_status_shows_failures_their_stage_and_the_command_to_retry():
    run = made_up_run(200)
    failed = run.in_state("failed", "quarantined")
    text = status_text(run, failures=2)
    assert f"{failed[0].drive_id} in {failed[0].stage}, frame {failed[0].frame}: {failed[0].reason}" in text
    assert f"and {len(failed) - 2} more" in text
    assert retry_command(run) in text and retry_command(run).endswith("--output s3://out/ --retry-failed")


def test_stages_that_cannot_keep_up_with_the_network_are_named_while_the_run_goes_on():
    run = made_up_run(10, "running", failed_share=0)
    rows = {f"s{k}": DriveRow(f"s{k}", state="staged") for k in range(4)} | {"r": DriveRow("r", state="running")}
    slow = {**rows, "p": DriveRow("p", state="published", seconds={"forward": 9.0, "refine": 40.0, "join": 2.0})}
    text = status_text(RunState(run.info, slow))
    assert "behind   4 drives are through the network" in text and "most of it refine), 1 are in it" in text
    assert "behind" not in status_text(RunState(replace(run.info, state="finished"), slow))
    del slow["s0"], slow["s1"]
    assert "behind" not in status_text(RunState(run.info, slow))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (18720, "5 h 12 min"), (183600, "2 d 3 h")],
)
def test_durations_have_readable_units(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(("count", "said"), [(0, "0 B"), (1500, "1.5 kB"), (2e9, "2 GB"), (5e15, "5,000 TB")])
def test_bytes_have_readable_units(count, said):
    assert size_text(count) == said


def test_the_command_to_try_again_leaves_out_none_of_those_that_failed():
    typed = ("python", "-m", "jobs.reconstruct", "--limit", "5", "--input", "s3://a b/", "--limit=7", "--only", "x*")
    run = made_up_run(3)
    command = retry_command(RunState(replace(run.info, command=typed), run.rows))
    assert command == "python -m jobs.reconstruct --input 's3://a b/' --only 'x*' --retry-failed"

"""Simulated runs: rows as a run over many drives writes them, with unusual texts in them."""

from __future__ import annotations

import random

from pipeline.fleet.records.ledger import DriveRow, RunInfo, RunState

BEGIN = 1_790_000_000.0
NASTY = "</script><script>document.title='owned'</script> & \"quotes\" 'single' $run_id \u2028"


def made_up_run(drives: int = 60, state: str = "finished", failed_share: float = 0.1) -> RunState:
    """A run of `drives` drives, about failed_share of them bad; equal arguments give equal runs."""
    rng = random.Random(7)
    rows = {}
    for number in range(drives):
        drive_id = f"2026-11-{number % 28 + 1:02d}__{number:05d}"
        frames = rng.randint(200, 5000)
        seconds = frames / rng.uniform(8, 14)
        common = {
            "drive_id": drive_id,
            "uri": f"s3://fleet/{drive_id}",
            "attempts": 1,
            "group": number % 8,
            "tags": ("night",) if number % 7 == 0 else (),
            "started_at": BEGIN + number * 40,
        }
        if rng.random() < failed_share:
            frame = rng.randint(0, 999)
            stage, reason = rng.choice(
                [
                    (
                        "forward",
                        f"drive {drive_id}: 40% of its frames cannot be used (frame {frame}: cannot be decoded)",
                    ),
                    ("find", f"no such file or folder: s3://fleet/{drive_id}"),
                    ("find", NASTY),
                ]
            )
            rows[drive_id] = DriveRow(
                **common,
                state="quarantined" if number % 5 == 0 else "failed",
                reason=reason,
                stage=stage,
                frame=frame,
                ended_at=BEGIN + number * 40 + 5,
            )
            continue
        rows[drive_id] = DriveRow(
            **common,
            state="published",
            frames=frames,
            chunks=frames // 30,
            loops=3,
            points=frames * 2000,
            bytes=frames * 40_000,
            verdict="pass",
            seconds={"find": 32.0, "forward": seconds, "join": 3.5, "publish": frames / 300},
            gpu_seconds=seconds,
            frames_per_s=frames / seconds,
            ended_at=BEGIN + number * 40 + seconds,
        )
    end = max([row.ended_at for row in rows.values()], default=BEGIN)
    info = RunInfo(
        "20260921T000000-abcdef",
        input="s3://fleet/",
        state=state,
        started_at=BEGIN,
        updated_at=end,
        ended_at=None if state == "running" else end,
        host="head",
        command=("python", "-m", "jobs.reconstruct", "--input", "s3://fleet/", "--output", "s3://out/"),
        settings={"chunk_size": 60},
        groups=8,
        workers=1,
        gpus=8,
        listed=True,
        report="report.html",
    )
    return RunState(info, rows)

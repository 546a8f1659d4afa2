"""Checks every drive of an output, several at a time: in Ray tasks, or in threads where there are few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import ray

from pipeline import storage
from pipeline.errors import DriveError, StorageError
from pipeline.publish.verify import DriveCheck, Problem, verify_drive

FEW_DRIVES = 8
"""Up to this number, drives are read in threads of this process: starting Ray would take longer."""
_LISTED_AT_A_TIME = 32  # listing is bound by the latency of the store
_READ_AT_A_TIME = 4
_TASKS_AHEAD = 2  # tasks for each CPU: one runs, one waits
_CPUS = 1  # hashing and decoding use one thread

Told = Callable[[DriveCheck], None]


def published_ids(output: str) -> list[str]:
    """Names of the folders of an output that may be drives, in order. Raises DriveError where the output is missing."""
    if not storage.exists(output):
        raise DriveError(f"no output at {storage.redacted(output)}; check --output")
    return [name for name in storage.list_folders(output) if not name.startswith((".", "_"))]


def verify_drives(
    output: str, drive_ids: Sequence[str], *, quick: bool, told: Told, in_cluster: bool
) -> list[DriveCheck]:
    """Check these drives; results are in the order given. Folders without a manifest are left out.

    in_cluster: use Ray tasks (Ray must be started), else threads. told: called with each result. A store that does not
    answer is reported as a problem of the drive.
    """
    found: dict[str, DriveCheck] = {}
    checks = _by_tasks(output, drive_ids, quick) if in_cluster else _by_threads(output, drive_ids, quick)
    for check in checks:
        if check is not None:
            told(check)
            found[check.drive_id] = check
    return [found[name] for name in drive_ids if name in found]


def _by_threads(output: str, drive_ids: Sequence[str], quick: bool) -> Iterator[DriveCheck | None]:
    with ThreadPoolExecutor(_LISTED_AT_A_TIME if quick else _READ_AT_A_TIME, thread_name_prefix="verify") as pool:
        running = {pool.submit(check_one, output, name, quick) for name in drive_ids}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def _by_tasks(output: str, drive_ids: Sequence[str], quick: bool) -> Iterator[DriveCheck | None]:
    task = ray.remote(num_cpus=_CPUS, max_retries=2)(check_one)
    ahead = max(int(ray.cluster_resources().get("CPU", 1)), 1) * _TASKS_AHEAD
    names = iter(drive_ids)
    running: list[ray.ObjectRef] = []
    while True:
        while len(running) < ahead and (name := next(names, None)) is not None:
            running.append(task.remote(output, name, quick))
        if not running:
            return
        done, running = ray.wait(running, num_returns=1)
        yield from ray.get(done)


def check_one(output: str, drive_id: str, quick: bool) -> DriveCheck | None:
    """Check one drive; None for a folder without a manifest. Errors of the drive or its store are in the result."""
    try:
        if not storage.exists(storage.join(output, drive_id, "manifest.json")):
            return None
        return verify_drive(output, drive_id, quick=quick)
    except StorageError as error:
        return DriveCheck(drive_id, (Problem("", " ".join(str(error).split())),))

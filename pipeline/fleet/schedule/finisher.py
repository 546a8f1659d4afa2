"""Joining and publishing beside the groups: bounded tasks of Ray's that the driver owns.

If workers of a group die, nothing staged is lost: it is on storage, where these tasks read it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import ray
from ray.exceptions import RayTaskError
from ray.remote_function import RemoteFunction

from pipeline import publish, storage
from pipeline.common.progress import Reporter
from pipeline.config import RunConfig
from pipeline.errors import DriveError, StorageError
from pipeline.finish import join_and_publish
from pipeline.leases import Guard, remote_guard
from pipeline.result_identity import result_identity
from pipeline.staged_drive import StagedDrive, remove_staging, write_staged_drive

# Joining is one thread's arithmetic, and reading and writing beside it.
_CPUS = 1


@dataclass(frozen=True)
class Finished:
    """A published drive in numbers. seconds: by stage."""

    frames: int
    chunks: int
    loops: int
    points: int
    bytes: int
    verdict: str | None
    seconds: dict[str, float]


FinishDrive = Callable[[StagedDrive, RunConfig, str, str], Finished]
"""Staged drive, settings, output, owner of its lease -> published. Raises DriveError."""


def finish_drive(staged: StagedDrive, config: RunConfig, output: str, owner: str) -> Finished:
    """Join and publish in a task of Ray's, wherever there is room. Raises DriveError, StorageError."""
    try:
        result: Finished = ray.get(_task().remote(staged, config, output, owner))
        return result
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, BaseException) else None
        raise cause or DriveError(f"drive {staged.facts.drive_id}: {error}") from None


def finish_here(staged: StagedDrive, config: RunConfig, output: str, owner: str) -> Finished:
    """What the task does. Staged predictions go once the drive is published, unless they shall be kept.

    An earlier try may have published the drive and been lost before it could report that: then the drive is done, even
    if staged files are gone. With --overwrite that
    cannot be told from the result that was there before, and the drive is joined again.
    """
    with storage.held_root(output, make=False):
        return _finish(staged, config, output, owner)


def _finish(staged: StagedDrive, config: RunConfig, output: str, owner: str) -> Finished:
    drive_id = staged.facts.drive_id
    reporter = Reporter(_Silent())  # type: ignore[arg-type]
    guard = remote_guard(output, drive_id, owner)
    manifest = None if config.overwrite else _published_by_now(staged, config, output, guard)
    if manifest is None:
        if config.keep_predictions:
            write_staged_drive(output, staged, config)
        manifest = join_and_publish(staged, config, output, reporter, guard).manifest
    if not config.keep_predictions:
        with contextlib.suppress(StorageError):  # nothing of the result; a later run clears up
            remove_staging(output, drive_id)
    counts = manifest.counts
    return Finished(
        counts.frames,
        counts.chunks,
        counts.loops_accepted,
        counts.points,
        sum(file.size for file in manifest.files),
        str(manifest.quality["verdict"]),
        dict(reporter.seconds),
    )


def _published_by_now(staged: StagedDrive, config: RunConfig, output: str, guard: Guard) -> publish.Manifest | None:
    identity = result_identity(staged.facts, staged.weights_sha256, config)
    if not publish.is_whole(output, staged.facts.drive_id, identity):
        return None
    return publish.settle(output, staged.facts.drive_id, guard)


class Finisher:
    """Runs finishing tasks, some at a time. `is_full`: so many wait that groups should not stage more."""

    def __init__(self, at_a_time: int) -> None:
        self._pool = ThreadPoolExecutor(at_a_time, thread_name_prefix="finish")
        self._limit = 2 * at_a_time
        self._waiting = 0
        self._lock = threading.Lock()

    @property
    def is_full(self) -> bool:
        """Whether to wait with new drives."""
        return self._waiting >= self._limit

    def submit(self, work: Callable[[], None]) -> None:
        """Queue this work; it must not raise."""
        with self._lock:
            self._waiting += 1

        def run() -> None:
            try:
                work()
            finally:
                with self._lock:
                    self._waiting -= 1

        self._pool.submit(run)

    def close(self, *, drop: bool) -> None:
        """Wait until all is done; drop: leave out what has not begun."""
        self._pool.shutdown(wait=True, cancel_futures=drop)


class _Silent:
    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> None:
        """Nobody watches a task."""

    def flush(self) -> None:
        """Nothing to flush."""


def _task() -> RemoteFunction:
    return ray.remote(num_cpus=_CPUS, max_retries=2)(finish_here)

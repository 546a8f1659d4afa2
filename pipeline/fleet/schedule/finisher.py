"""Joins and publishes staged drives in Ray tasks while the groups go on; at most a given number at a time.

The tasks read staged predictions from storage, so nothing is lost when workers of a group die.
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

# Joining computes in one thread; reading and writing overlap with it.
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
"""Staged drive, settings, output, id of the run that holds its lease -> published drive. Raises DriveError."""


def finish_drive(staged: StagedDrive, config: RunConfig, output: str, holder: str) -> Finished:
    """Join and publish in a Ray task on any node with a free core. Raises DriveError, StorageError."""
    try:
        result: Finished = ray.get(_task().remote(staged, config, output, holder))
        return result
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, BaseException) else None
        raise cause or DriveError(f"drive {staged.facts.drive_id}: {error}") from None


def finish_here(staged: StagedDrive, config: RunConfig, output: str, holder: str) -> Finished:
    """The work of the task. Staged predictions are removed after publishing, unless `keep_predictions` is set.

    An earlier try may have published the drive and died before it could report that. Then the drive is done, even if
    its staged files are gone. With --overwrite such a result cannot be told from the old one, and the drive is joined
    again.
    """
    with storage.held_root(output, make=False):
        return _finish(staged, config, output, holder)


def _finish(staged: StagedDrive, config: RunConfig, output: str, holder: str) -> Finished:
    drive_id = staged.facts.drive_id
    guard = remote_guard(output, drive_id, holder)
    reporter = Reporter(_Silent())  # type: ignore[arg-type]
    manifest = None if config.overwrite else _published_by_now(staged, config, output, guard)
    if manifest is None:
        if config.keep_predictions:
            write_staged_drive(output, staged, config)
        with reporter:
            manifest = join_and_publish(staged, config, output, reporter, guard).manifest
    if not config.keep_predictions:
        with contextlib.suppress(StorageError):  # the result does not depend on it; a later run removes the files
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
    """Runs finishing tasks, `at_a_time` in parallel. `is_full`: too many wait, so groups should not stage more."""

    def __init__(self, at_a_time: int) -> None:
        self._pool = ThreadPoolExecutor(at_a_time, thread_name_prefix="finish")
        self._limit = 2 * at_a_time
        self._waiting = 0
        self._lock = threading.Lock()

    @property
    def is_full(self) -> bool:
        """Whether groups should wait before they begin new drives."""
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
        """Wait until all work is done. drop: leave out work that has not begun."""
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

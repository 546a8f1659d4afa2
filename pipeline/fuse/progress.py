"""The present state of a fuse run in `<output>/_city/run.json`: the run updates it, jobs.status reads it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace

from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.common.secrets import without_secrets
from pipeline.errors import StorageError
from pipeline.fuse.city_files import city_uri

NAME = "run.json"
_BEAT_S = 20.0  # seconds: a run writes four times in it, and is lost if it has not written for five of them
LOST_AFTER_S = 5 * _BEAT_S


@dataclass(frozen=True)
class FuseRun:
    """A run. state: running | finished | failed | lost (it was running and has not been updated for 100 seconds);
    stage: its present work, of which `done` of `total` units are done; started_at, stage_at, updated_at: seconds since
    1970; message: how it ended."""

    run_id: str
    state: str
    stage: str
    done: int
    total: int
    unit: str
    started_at: float
    stage_at: float
    updated_at: float
    host: str
    pid: int
    message: str = ""

    def line(self, now: float) -> str:
        """One line for jobs.status. now: seconds since 1970."""
        words = f"fuse {self.run_id}  {self.state}"
        if self.state in ("running", "lost"):
            words += f": {self.stage}"
            if self.total:
                words += f" {self.done:,} of {self.total:,} {self.unit}"
            spent = now - self.stage_at
            if self.state == "running" and 0 < self.done < self.total and spent > 1:
                words += f", about {spent / self.done * (self.total - self.done):,.0f} s left"
            words += f"; on {self.host}, {now - self.started_at:,.0f} s so far"
            if self.state == "lost":
                words += f"; last update {now - self.updated_at:,.0f} s ago: start jobs.fuse again, it continues there"
        return words + (f": {self.message}" if self.message else "")


def read_fuse_run(output: str, now: float) -> FuseRun | None:
    """The newest fuse run of an output; None if there is none or its file cannot be read. now: seconds since
    1970. Raises StorageError."""
    place = storage.join(city_uri(storage.absolute(output)), NAME)
    try:
        run = storage.parse_record(storage.read_small(place, storage.SMALL_BYTES), FuseRun, NAME)
    except (storage.NotFoundError, storage.UnreadableFileError, storage.DamagedError):
        return None
    if run.state == "running" and now - run.updated_at > LOST_AFTER_S:
        return replace(run, state="lost")
    return run


class RunningFuse(Reporter):
    """A reporter that also writes the progress to run.json. `end` writes how the run ended."""

    def __init__(self, outer: Reporter, output: str, run_id: str) -> None:
        self._outer, self._place = outer, storage.join(city_uri(output), NAME)
        self.seconds, self.stream = outer.seconds, outer.stream
        now = time.time()
        self._run = FuseRun(run_id, "running", "read", 0, 0, "", now, now, now, socket.gethostname(), os.getpid())
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._write(self._run)
        self._thread = threading.Thread(target=self._beat, name="fuse-progress", daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """As Reporter."""
        self._outer.say(text)

    def advance(self, name: str, count: int, total: int | None, unit: str) -> None:
        """As Reporter; the file is updated within some seconds."""
        self._outer.advance(name, count, total, unit)
        now = time.time()
        with self._lock:
            if self._run.stage != name:
                self._run = replace(self._run, stage=name, done=0, stage_at=now)
            self._run = replace(self._run, done=self._run.done + count, total=total or 0, unit=unit)

    def stage(self, name: str) -> None:
        """Begin a stage that has no count."""
        with self._lock:
            self._run = replace(self._run, stage=name, done=0, total=0, unit="", stage_at=time.time())

    def end(self, state: str, message: str) -> None:
        """End the run. state: finished | failed; message: how."""
        self._stop.set()
        self._thread.join()
        self._run = replace(self._run, state=state, message=without_secrets(message))
        self._write(self._run)

    def close(self) -> None:
        """Do nothing: the owner of the outer reporter closes it."""

    def _beat(self) -> None:
        while not self._stop.wait(_BEAT_S / 4):
            with self._lock:
                run = self._run
            self._write(run)

    def _write(self, run: FuseRun) -> None:
        data = json.dumps(asdict(replace(run, updated_at=time.time())), indent=1).encode()
        with contextlib.suppress(StorageError):  # the next write repeats it; other writes of the run raise the error
            storage.write_bytes_atomically(self._place, data)

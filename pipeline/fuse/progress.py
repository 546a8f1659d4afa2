"""What a fuse run does now, in `<output>/_city/run.json`: written as it goes on, read by jobs.status."""

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
from pipeline.errors import StorageError
from pipeline.fuse.city_files import city_uri

NAME = "run.json"
_BEAT_S = 20.0
LOST_AFTER_S = 5 * _BEAT_S


@dataclass(frozen=True)
class FuseRun:
    """state: running | finished | failed | lost (it says running, but its heart stopped); stage: what it does, with
    done of total units; times: seconds since 1970; message: how it ended."""

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
        """One line for a person."""
        words = f"fuse {self.run_id}  {self.state}"
        if self.state in ("running", "lost"):
            words += f": {self.stage}"
            if self.total:
                words += f" {self.done:,} of {self.total:,} {self.unit}"
            spent = now - self.stage_at
            if self.state == "running" and 0 < self.done < self.total and spent > 1:
                words += f", about {spent / self.done * (self.total - self.done):,.0f} s left of it"
            words += f"; on {self.host}, {now - self.started_at:,.0f} s so far"
            if self.state == "lost":
                words += (
                    f"; last heard of {now - self.updated_at:,.0f} s ago: start jobs.fuse again, it goes on from there"
                )
        return words + (f": {self.message}" if self.message else "")


def read_fuse_run(output: str, now: float) -> FuseRun | None:
    """The newest fuse run of an output; None without any, or where its file is damaged. Raises StorageError."""
    place = storage.join(city_uri(storage.absolute(output)), NAME)
    try:
        run = storage.parse_record(storage.read_small(place, storage.SMALL_BYTES), FuseRun, NAME)
    except (storage.NotFoundError, storage.DamagedError):
        return None
    if run.state == "running" and now - run.updated_at > LOST_AFTER_S:
        return replace(run, state="lost")
    return run


class RunningFuse(Reporter):
    """The reporter of a run that writes what it is told to run.json, too. `end` says how it ended."""

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
        """As Reporter; the file follows it within some seconds."""
        self._outer.advance(name, count, total, unit)
        now = time.time()
        with self._lock:
            if self._run.stage != name:
                self._run = replace(self._run, stage=name, done=0, stage_at=now)
            self._run = replace(self._run, done=self._run.done + count, total=total or 0, unit=unit)

    def stage(self, name: str) -> None:
        """A stage without a count begins."""
        with self._lock:
            self._run = replace(self._run, stage=name, done=0, total=0, unit="", stage_at=time.time())

    def end(self, state: str, message: str) -> None:
        """The run is over."""
        self._stop.set()
        self._thread.join()
        self._run = replace(self._run, state=state, message=message)
        self._write(self._run)

    def close(self) -> None:
        """Its owner closes the outer one."""

    def _beat(self) -> None:
        while not self._stop.wait(_BEAT_S / 4):
            with self._lock:
                run = self._run
            self._write(run)

    def _write(self, run: FuseRun) -> None:
        data = json.dumps(asdict(replace(run, updated_at=time.time())), indent=1).encode()
        with contextlib.suppress(StorageError):  # it is told again; the run itself meets a store that is gone
            storage.write_bytes_atomically(self._place, data)

"""The ledger: the state of every drive of a run, written while the run goes on, in `<output>/_runs/<run_id>/`.

    run.json                     the run: time, command, settings, state, a heartbeat
    rows-<first>-<last>.jsonl    rows that changed, one JSON object in each line

Object stores cannot append, and ten thousand objects cannot be read in a second. So every write makes a new part with
the rows that changed since the last one. 32 parts are merged into one that holds the newest row of each drive, and 32
of those again. A reader lists the folder once and reads at most some hundred parts, the newest last; a part whose range
lies inside that of another part is a remainder of a merge and is ignored. One process writes a run's ledger; any
process may read it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pipeline import storage
from pipeline.errors import DriveError, PipelineError, StorageError
from pipeline.storage import NotFoundError

RUNS_FOLDER = "_runs"
MERGED_PARTS = 32
WRITE_EVERY_S = 1.0
HEARTBEAT_S = 20.0
LOST_AFTER_S = 5 * HEARTBEAT_S

State = Literal["queued", "running", "staged", "published", "skipped", "failed", "quarantined"]
STATES: tuple[State, ...] = ("queued", "running", "staged", "published", "skipped", "failed", "quarantined")
FINAL: tuple[State, ...] = ("published", "skipped", "failed", "quarantined")
RunStateName = Literal["running", "finished", "interrupted", "failed", "lost"]

_PART = re.compile(r"rows-(\d{9})-(\d{9})\.jsonl")


@dataclass(frozen=True)
class DriveRow:
    """One drive of a run.

    attempts: how often this run began it. reason: why it is in this state, one line; stage and frame: where that
    happened, if known. seconds: by stage (find, forward, join, publish), summed over all tries. gpu_seconds: forward
    seconds times the GPUs of the group; gpus: of the group that has it now. frames_per_s: of the forward stage that
    succeeded. bytes: of the published files. identity: see pipeline.publish.drive_identity. group: number of the group
    that ran it. Times are seconds since 1970, UTC.
    """

    drive_id: str
    uri: str = ""
    tags: tuple[str, ...] = ()
    state: State = "queued"
    attempts: int = 0
    reason: str | None = None
    stage: str | None = None
    frame: int | None = None
    frames: int = 0
    chunks: int = 0
    loops: int = 0
    points: int = 0
    bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    gpu_seconds: float = 0.0
    gpus: int = 0
    frames_per_s: float = 0.0
    verdict: str | None = None
    identity: str | None = None
    group: int | None = None
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def is_final(self) -> bool:
        """Whether this run will not change the drive's state any more."""
        return self.state in FINAL


@dataclass(frozen=True)
class RunInfo:
    """One run. state "lost": the ledger says "running", but its heartbeat is older than LOST_AFTER_S.

    command: words of the command line, without credentials. settings: the resolved ones. listed: whether all drives of
    the input have a row. report: name of the HTML report beside the ledger, once it is written. notes: parts of the
    input that are not used; written at the end.
    """

    run_id: str
    input: str = ""
    state: RunStateName = "running"
    started_at: float = 0.0
    updated_at: float = 0.0
    ended_at: float | None = None
    host: str = ""
    pid: int = 0
    command: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    groups: int = 1
    workers: int = 1
    gpus: int = 0
    listed: bool = False
    message: str | None = None
    report: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunState:
    """A run and its drives, as the ledger has them now."""

    info: RunInfo
    rows: Mapping[str, DriveRow]

    @property
    def counts(self) -> dict[State, int]:
        """Drives by state, all states."""
        found = Counter(row.state for row in self.rows.values())
        return {state: found[state] for state in STATES}

    def in_state(self, *states: State) -> list[DriveRow]:
        """Rows in one of these states, by drive id."""
        return sorted((r for r in self.rows.values() if r.state in states), key=lambda row: row.drive_id)


def run_uri(output: str, run_id: str) -> str:
    """The folder of a run's ledger."""
    return storage.join(output, RUNS_FOLDER, run_id)


def list_runs(output: str) -> list[str]:
    """Names of all runs on an output, oldest first; empty where there were none."""
    try:
        return [name for name in storage.list_folders(storage.join(output, RUNS_FOLDER)) if name[:1] != "_"]
    except NotFoundError:
        return []


def read_run(output: str, run_id: str | None = None) -> RunState:
    """Read the ledger of a run, by default the newest one. The run may still be writing it.

    Raises DriveError where there is no such run or its ledger is damaged; StorageError.
    """
    output = storage.absolute(output)
    shown = storage.redacted(output)
    if run_id is None:
        runs = list_runs(output)
        if not runs:
            raise DriveError(f"no run was ever made on {shown}; jobs.reconstruct with many drives makes one")
        run_id = runs[-1]
    folder = run_uri(output, run_id)
    for again in range(5):
        try:
            info = storage.read_record(storage.join(folder, "run.json"), RunInfo)
            rows: dict[str, DriveRow] = {}
            for name in _parts([file.name for file in storage.list_files(folder)]):
                uri = storage.join(folder, name)
                lines = [line for line in storage.read_small(uri, storage.LISTED_BYTES).splitlines() if line.strip()]
                rows |= {row.drive_id: row for row in storage.parse_records(lines, DriveRow, storage.redacted(uri))}
        except NotFoundError as error:
            if again < 4 and storage.exists(storage.join(folder, "run.json")):
                continue  # a part was merged away between listing and reading
            raise DriveError(f"no run {run_id} on {shown}") from error
        except storage.DamagedError as error:
            raise storage.DamagedError(f"run {run_id} on {shown}: its ledger is damaged ({error})") from None
        break
    if info.state == "running" and time.time() - info.updated_at > LOST_AFTER_S:
        info = replace(info, state="lost")
    return RunState(info, rows)


class Ledger:
    """Writes a run's ledger. Safe across threads; a separate thread writes to the store, so that callers do not wait.

    Use it as a context. Entering writes the run's first record (raises StorageError where that fails); leaving writes
    all remaining changes. A failed write in between is reported (`say`) and tried again with the next write; `state`
    says at the end whether everything was written.
    """

    def __init__(self, output: str, info: RunInfo, say: Callable[[str], None] = lambda text: None) -> None:
        now = time.time()
        self.output = output
        self.info = replace(
            info, started_at=info.started_at or now, updated_at=now, host=socket.gethostname(), pid=os.getpid()
        )
        self.folder = run_uri(output, info.run_id)
        self.rows: dict[str, DriveRow] = {}
        self.write_failure: str | None = None
        self._say = say
        self._counts: Counter[State] = Counter()
        self._changed: dict[str, None] = {}  # drive ids, in order of change
        self._levels: list[list[tuple[int, int, set[str]]]] = [[]]  # parts on the store: first, last, whose rows
        self._next = 0
        self._info_changed = False
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._write_on, name="ledger", daemon=True)

    def __enter__(self) -> Ledger:
        self._write_info()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()
        try:
            self.flush()
        except StorageError as error:
            self.failed(error)

    def row(self, drive_id: str) -> DriveRow:
        """The row as it is now. Raises KeyError."""
        with self._lock:
            return self.rows[drive_id]

    def add(self, rows: Iterable[DriveRow]) -> None:
        """Add rows, or replace those with the same drive id."""
        with self._lock:
            for row in rows:
                self._put(row)

    def update(self, drive_id: str, **changes: Any) -> DriveRow:  # values of DriveRow's fields
        """Change fields of a row. `seconds` are added to those in the row. The state sets started_at and ended_at."""
        with self._lock:
            row = self.rows[drive_id]
            if "seconds" in changes:
                sums = dict(row.seconds)
                for name, spent in changes["seconds"].items():
                    sums[name] = sums.get(name, 0.0) + spent
                changes["seconds"] = sums
            state = changes.get("state")
            now = time.time()
            if state == "running":
                changes.setdefault("started_at", now)
            if state in FINAL:
                changes.setdefault("ended_at", now)
            row = replace(row, **changes)
            self._put(row)
            return row

    def update_run(self, **changes: Any) -> None:  # values of RunInfo's fields
        """Change fields of the run itself."""
        with self._lock:
            self.info = replace(self.info, **changes)
            self._info_changed = True

    def counts(self) -> dict[State, int]:
        """Number of drives in each state. Kept up to date as rows change, because it is needed often."""
        with self._lock:
            return {state: self._counts[state] for state in STATES}

    def flush(self) -> None:
        """Write the changes now. Raises StorageError; the changes are then kept for the next write."""
        with self._writing:
            with self._lock:
                ids = list(self._changed)
                self._changed = {}
                info_due = self._info_changed
                self._info_changed = False
            try:
                if ids:
                    self._write_part(self._next, self._next, set(ids), level=0)
                    self._next += 1
                    self._merge()
                if info_due or time.time() - self.info.updated_at > HEARTBEAT_S:
                    self._write_info()
            except BaseException:
                with self._lock:
                    self._changed = {**dict.fromkeys(ids), **self._changed}
                    self._info_changed = self._info_changed or info_due
                raise
            if self.write_failure is not None:
                self._say("the ledger is written again")
            self.write_failure = None

    def failed(self, error: PipelineError) -> None:
        """A write failed: report the first failure. The run goes on."""
        if self.write_failure is None:
            self._say(
                f"the ledger cannot be written ({error}): jobs.status does not see how far this run is; drives are "
                "published all the same, and the ledger is written as soon as it can be"
            )
        self.write_failure = str(error)

    def state(self) -> RunState:
        """The run as it is now. Where the ledger on the store could not be updated, the run's message says so."""
        with self._lock:
            info, rows = self.info, dict(self.rows)
        if self.write_failure is not None:
            said = f"the ledger could not be written, so jobs.status does not know this run's end: {self.write_failure}"
            info = replace(info, message=f"{info.message}; {said}" if info.message else said, report=None)
        return RunState(info, rows)

    def _put(self, row: DriveRow) -> None:
        if row.reason is not None:
            row = replace(row, reason=storage.redacted(row.reason))  # the report is made from the rows in memory
        before = self.rows.get(row.drive_id)
        if before is not None:
            self._counts[before.state] -= 1
        self._counts[row.state] += 1
        self.rows[row.drive_id] = row
        self._changed[row.drive_id] = None

    def _write_on(self) -> None:
        while not self._closed:
            self._wake.wait(WRITE_EVERY_S)
            try:
                self.flush()
            except PipelineError as error:
                self.failed(error)

    def _write_part(self, first: int, last: int, ids: set[str], level: int) -> None:
        with self._lock:
            rows = [self.rows[drive_id] for drive_id in sorted(ids)]
        lines = [json.dumps(asdict(row), separators=(",", ":")) for row in rows]
        storage.write_bytes_atomically(
            storage.join(self.folder, _part_name(first, last)), storage.redacted("\n".join(lines)).encode()
        )
        if len(self._levels) <= level:
            self._levels.append([])
        self._levels[level].append((first, last, ids))

    def _merge(self) -> None:
        for level in range(len(self._levels)):
            parts = self._levels[level]
            if len(parts) < MERGED_PARTS:
                continue
            first, last = parts[0][0], parts[-1][1]
            # rows in memory are the newest, so a merged part is never older than the parts that it replaces
            self._write_part(first, last, set().union(*(ids for _, _, ids in parts)), level + 1)
            self._levels[level] = []
            for start, stop, _ in parts:
                storage.remove_file(storage.join(self.folder, _part_name(start, stop)))

    def _write_info(self) -> None:
        with self._lock:
            self.info = replace(self.info, updated_at=time.time())
            text = json.dumps(asdict(self.info), indent=1)
        storage.write_bytes_atomically(storage.join(self.folder, "run.json"), storage.redacted(text).encode())


def _part_name(first: int, last: int) -> str:
    return f"rows-{first:09d}-{last:09d}.jsonl"


def _parts(names: Iterable[str]) -> list[str]:
    """The parts to read, in order. Parts inside the range of a merged one are left out."""
    ranges = sorted(
        ((int(m[1]), int(m[2])) for m in map(_PART.fullmatch, names) if m is not None),
        key=lambda bounds: (bounds[0], -bounds[1]),
    )
    kept: list[tuple[int, int]] = []
    for first, last in ranges:
        if not kept or last > kept[-1][1]:
            kept.append((first, last))
    return [_part_name(first, last) for first, last in kept]

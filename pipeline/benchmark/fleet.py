"""Measures a fleet run without a network: the driver's CPU time and RAM, and how busy it keeps many groups.

Planner, queue, lifecycle, leases, ledger and finisher are the real ones, called by `run_fleet`. Simulated are the
drives (listings of names), the groups (they sleep for the time that a drive would take, divided by `speed_up`) and
publishing (sleeps too). Listing a store is not included, and Ray is not started.
"""

from __future__ import annotations

import io
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from models import ModelConfig
from pipeline import storage
from pipeline.benchmark.report import Measured, Row
from pipeline.common.process_memory import MemoryTrace
from pipeline.common.progress import Reporter
from pipeline.common.sizes import size_text
from pipeline.config import RunConfig
from pipeline.fleet.discover.drive_ref import DriveRef
from pipeline.fleet.plan.drive_plan import PlannedDrive, Planner, drive_config
from pipeline.fleet.run import run_fleet
from pipeline.fleet.schedule.finisher import Finished
from pipeline.fleet.schedule.group_size import GroupSize
from pipeline.fleet.schedule.runtime import Runtime
from pipeline.forward.events import Event, Outcome, Progress, RankUp, Staged
from pipeline.forward.group import GroupSettings, Permit
from pipeline.ingest.drives import Drive
from pipeline.ingest.segments import DriveTask
from pipeline.prepare import make_task
from pipeline.storage import Listing, StoredFile

if TYPE_CHECKING:
    from pipeline.fleet.records.failure_records import Failures
    from pipeline.staged_drive import StagedDrive

_TARGET_BUSY, _TARGET_MEMORY, _TARGET_GROWTH = 0.95, 2e9, 0.1
_PROGRESS_EVENTS = 20  # per drive; in a real run one per chunk and phase, of which the driver shows a sample
_SPREAD = 0.6  # standard deviation of the logarithm of a drive's length: some are ten times as long as others


@dataclass(frozen=True)
class FleetBenchmark:
    """A simulated fleet and the machines on which it would run."""

    drives: int = 10_000
    """Drives of the fleet."""
    groups: int = 64
    """Groups of one GPU each that work at the same time."""
    frames: int = 2_500
    """Median number of frames of a drive; lengths differ widely."""
    frames_per_s: float = 10.0
    """Frames per second of one group."""
    start_s: float = 45.0
    """Seconds that a group needs to start and load its weights, once per wave of drives."""
    finish_s: float = 20.0
    """Seconds to join and publish a drive."""
    speed_up: float = 100.0
    """All these seconds are divided by this factor. The driver's own work is not, so its share is measured too
    large."""
    output: str | None = None
    """Folder or bucket for ledger and leases; by default a temporary folder."""
    seed: int = 1
    """Seed of the drives' lengths."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the setting."""
        for name in ("drives", "groups", "frames", "frames_per_s", "speed_up"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"fleet.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("start_s", "finish_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"fleet.{name} must not be negative, not {getattr(self, name)}")

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Run the fleet. Raises StorageError if the output cannot be written."""
        if self.output is not None:
            return self._measured(storage.absolute(self.output), say)
        with tempfile.TemporaryDirectory(prefix="fleet-benchmark-") as folder:
            return self._measured(folder, say)

    def _measured(self, output: str, say: Callable[[str], None]) -> Measured:
        world = _World(self)
        say(
            f"fleet: {self.drives} drives, {sum(world.frames):,} frames, {self.groups} groups; "
            f"ideally {world.ideal_s:.0f} s"
        )
        cpu, begin = time.process_time(), time.monotonic()
        with Reporter(_Lines(say)) as reporter, MemoryTrace(every_s=0.25) as memory:
            run = run_fleet(self._config(output), world.refs(), reporter, world.runtime())
        wall, cpu = time.monotonic() - begin, time.process_time() - cpu
        published = run.counts["published"]
        if published != self.drives:
            said = run.info.message or run.counts
            raise ValueError(f"only {published} of {self.drives} drives were published: {said}")
        ledger = tuple(file.size for file in _all_files(storage.join(output, "_runs", run.info.run_id)))
        figures = _Figures(world, wall, cpu, world.last_staged - begin, memory.peak, memory.growth, ledger)
        return Measured(figures.values(), figures.rows())

    def _config(self, output: str) -> RunConfig:
        """Settings of the run, with so many finishing tasks that publishing keeps up with the groups."""
        config = RunConfig(input="made-up", output=output, workers=1, stops=False, turns=False)
        busy = math.ceil(self.groups * self.finish_s * self.frames_per_s / self.frames)
        return replace(config, fleet=replace(config.fleet, finishing=2 * max(config.fleet.finishing, busy)))


@dataclass(frozen=True)
class _Figures:
    """What was measured. span: seconds until the last drive was staged; growth: bytes in the second half of the run;
    ledger: bytes of each of its objects."""

    world: _World
    wall: float
    cpu: float
    span: float
    peak: int
    growth: float
    ledger: tuple[int, ...]

    @property
    def busy(self) -> float:
        """Share of the groups' time that they spend in drives."""
        return self.world.total_s / (self.world.settings.groups * self.span)

    @property
    def lost_s(self) -> float:
        """Seconds of a group that a drive costs beside its own, with starts."""
        settings = self.world.settings
        return (settings.groups * self.span - self.world.total_s) / settings.drives

    def values(self) -> dict[str, float]:
        """All figures by name, for JSON."""
        drives = self.world.settings.drives
        return {
            "wall_seconds": self.wall,
            "makespan_seconds": self.span,
            "ideal_seconds": self.world.ideal_s,
            "busy": self.busy,
            "driver_cpu_seconds": self.cpu,
            "driver_cpu_seconds_a_drive": self.cpu / drives,
            "overhead_seconds_a_drive": self.lost_s,
            "drives_a_second": drives / self.wall,
            "memory_peak_bytes": self.peak,
            "memory_growth": self.growth / self.peak,
            "ledger_bytes": sum(self.ledger),
            "ledger_objects": len(self.ledger),
            "starts": self.world.starts,
        }

    def rows(self) -> tuple[Row, ...]:
        """The figures as a table, with targets."""
        growth = self.growth / self.peak
        return (
            Row("groups busy with drives", f"{self.busy:.1%}", f">= {_TARGET_BUSY:.0%}", self.busy >= _TARGET_BUSY),
            Row("makespan", f"{self.span:.0f} s, ideally {self.world.ideal_s:.0f} s"),
            Row(
                "driver memory, most",
                size_text(self.peak),
                f"< {size_text(_TARGET_MEMORY)}",
                self.peak < _TARGET_MEMORY,
            ),
            Row(
                "its growth, second half over first",
                f"{growth:.1%}",
                f"<= {_TARGET_GROWTH:.0%}",
                growth <= _TARGET_GROWTH,
            ),
            Row("driver CPU per drive", f"{1000 * self.cpu / self.world.settings.drives:.1f} ms"),
            Row("time that a group loses per drive, with starts", f"{1000 * self.lost_s:.0f} ms"),
            Row("ledger", f"{size_text(sum(self.ledger))} in {len(self.ledger)} objects"),
        )


class _World:
    """Simulated drives, groups and publishing that only take the time they would need."""

    def __init__(self, settings: FleetBenchmark) -> None:
        self.settings = settings
        rng = np.random.default_rng(settings.seed)
        lengths = settings.frames * np.exp(_SPREAD * rng.standard_normal(settings.drives))
        self.frames = [max(60, int(length)) for length in lengths]
        self.seconds = [count / settings.frames_per_s / settings.speed_up for count in self.frames]
        self.total_s = sum(self.seconds)
        self.ideal_s = max(self.total_s / settings.groups, max(self.seconds))
        names = [f"{number:06d}.jpg" for number in range(max(self.frames))]
        self.files = Listing("made-up", names, [200_000] * len(names), [f"{name:>032}" for name in names])
        self.starts = 0
        self.last_staged = 0.0
        self._lock = threading.Lock()

    def runtime(self) -> Runtime:
        """The parts of a run, those that need a network or Ray replaced by simulated ones."""
        groups = GroupSize(self.settings.groups, 1, self.settings.groups, False, 10**12)
        return Runtime(
            ready=lambda config: None,
            size=lambda config: groups,
            load=self.load,
            run_wave=self.run_wave,
            finish=self.finish,
            nodes=lambda: ({"node"}, set()),
            planner=self.planner,
        )

    def refs(self) -> Iterator[DriveRef]:
        return (DriveRef(f"drive-{number:06d}", f"made-up/{number:06d}") for number in range(self.settings.drives))

    def planner(self, config: RunConfig, output: str, failures: Failures) -> Planner:
        model = ModelConfig.scal3r()
        return Planner(config.with_network_defaults(model), model, "0" * 64, output, failures, find=self.find)

    def find(self, config: RunConfig) -> Drive:
        """A drive with its number of frames. All drives share the list of names, since listing is not measured here."""
        assert config.input is not None and config.drive_id is not None
        count = self.frames[int(config.drive_id.rpartition("-")[2])]
        return _drive(config.drive_id, config.input, self.files[:count])

    def load(self, planned: PlannedDrive, planner: Planner) -> tuple[DriveTask, str]:
        """The task of a drive. Every drive gets its own list of names here, because these are most of the driver's
        RAM."""
        names, sizes, etags = planner.find(drive_config(planner.config, planned.ref)).listing.columns()
        files = Listing(planned.ref.uri, names, sizes, [f"{etag}*" for etag in etags])
        drive = _drive(planned.drive_id, planned.ref.uri, files)
        return make_task(drive, planner.config, planner.model), planned.identity or ""

    def run_wave(
        self,
        config: RunConfig,
        output: str,
        tasks: Sequence[DriveTask],
        settings: GroupSettings,
        on_event: Callable[[Event], None],
        permit: Permit,
    ) -> Mapping[str, Outcome]:
        with self._lock:
            self.starts += 1
        time.sleep(self.settings.start_s / self.settings.speed_up)
        on_event(RankUp(0, "node", 1))
        for task in tasks:
            drive_id = task.drive.drive_id
            while (answer := permit(drive_id)) is None:
                time.sleep(0.005)
            if answer == "stop":
                break
            if answer == "skip":
                continue
            end = time.monotonic() + self.seconds[int(drive_id.rpartition("-")[2])]
            for step in range(_PROGRESS_EVENTS):
                on_event(Progress(drive_id, "layers 1/5", 1))
                time.sleep(max(0.0, (end - time.monotonic()) / (_PROGRESS_EVENTS - step)))
            self.last_staged = time.monotonic()
            on_event(Staged(drive_id, "made-up", len(task.chunks)))
        return {}

    def finish(self, staged: StagedDrive, config: RunConfig, output: str, holder: str) -> Finished:
        seconds = self.settings.finish_s / self.settings.speed_up
        time.sleep(seconds)
        frames = len(staged.facts.frame_uris)
        return Finished(frames, staged.chunk_count, 0, 2000 * frames, 40_000 * frames, "pass", {"join": seconds})


def _drive(drive_id: str, uri: str, files: Listing) -> Drive:
    return Drive(drive_id, uri, "images", files.uris, len(files), None, None, 1242, 375, files)


def _all_files(uri: str) -> Iterator[StoredFile]:
    yield from storage.list_files(uri)
    for name in storage.list_folders(uri):
        yield from _all_files(storage.join(uri, name))


class _Lines(io.StringIO):
    """Forwards the run's progress lines, at most one every 20 seconds."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say, self._last = say, 0.0

    def write(self, text: str) -> int:
        now = time.monotonic()
        if text.strip() and now - self._last > 20:
            self._last = now
            self._say(text.strip())
        return len(text)

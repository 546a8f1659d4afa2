"""Plans many drives in parallel: in threads of the driver, and for a large fleet in processes of the cluster.

A plan is small, but making it means parsing five thousand or more names for each drive. The driver of a large fleet
must serve groups at the same time, so other processes do the planning.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import PipelineError
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.fleet.plan.drive_plan import PlannedDrive, Planner
from pipeline.fleet_config import FleetConfig

# The driver's threads plan this many drives in the time that a process needs to start.
FEW_DRIVES = 200
# At least two: starting a single process costs more than it saves (on two cores, which also ran the server, 10 million
# names took 72 s with one process and 46 s with two).
CPUS_A_PROCESS, LEAST_PROCESSES, MOST_PROCESSES = 4, 2, 8
# A process that has drives and returned none for this time is taken to be dead: no working store takes that long.
STUCK_S = 600.0
LOOK_EVERY_S = 10.0


def plan_drives(
    planner: Planner, refs: Iterable[DriveRef | RefusedDrive], settings: FleetConfig
) -> Iterator[PlannedDrive]:
    """Plans of all drives, as they become ready, with bounded parallelism and memory. Entries that discovery refused
    come last, with ids that no drive has. Where discovery raises DriveError, the drives found before are yielded
    first."""
    seen: set[str] = set()
    refused: list[RefusedDrive] = []
    threads = settings.scan_threads
    with ThreadPoolExecutor(threads, thread_name_prefix="plan") as pool, _Processes(planner, settings) as far:
        work = _Work(planner, pool, far)
        try:
            for ref in refs:
                if isinstance(ref, RefusedDrive):
                    refused.append(ref)
                    continue
                seen.add(ref.drive_id)
                if len(seen) >= FEW_DRIVES:
                    far.start()
                work.begin(ref)
                while len(work.running) >= max(2 * threads, far.room):
                    yield from work.finished()
        except PipelineError:
            while work.running:
                yield from work.finished()
            yield from _refused(refused, seen)
            raise
        while work.running:
            yield from work.finished()
        yield from _refused(refused, seen)


class _Work:
    """Drives that are being planned, in a thread or in a process."""

    def __init__(self, planner: Planner, pool: ThreadPoolExecutor, far: _Processes) -> None:
        self._planner, self._pool, self._far = planner, pool, far
        self.running: dict[Future[PlannedDrive], tuple[DriveRef, _Process | None]] = {}

    def begin(self, ref: DriveRef) -> None:
        """Plan a drive in the process that has the fewest drives, else in a thread."""
        process = self._far.free()
        if process is None:
            self._here(ref)
        else:
            self.running[process.plan(ref)] = ref, process

    def finished(self) -> Iterator[PlannedDrive]:
        """Wait for some plans and yield them."""
        for future in wait(self.running, LOOK_EVERY_S, FIRST_COMPLETED).done:
            ref, process = self.running.pop(future)
            if process is None:
                yield future.result()
                continue
            process.gave_back()
            try:
                planned = future.result()
            except RayTaskError:
                self._here(ref)  # a bug raises the same error again in this process
            except RayError:  # its node was lost, or memory ran out and it was killed
                self._far.drop(process)
                self._here(ref)
            else:
                if planned.todo in ("bad", "trouble"):
                    self._here(ref)  # the driver may be able to read what a node cannot; there are few such drives
                else:
                    yield planned
        self._far.drop_stuck()  # futures of their drives then raise RayError

    def _here(self, ref: DriveRef) -> None:
        self.running[self._pool.submit(self._planner.plan, ref)] = ref, None


class _PlanActor:
    """Plans drives for the driver, several at a time."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    def ready(self) -> None:
        """Returns when the process is up."""

    def plan(self, ref: DriveRef) -> PlannedDrive:
        return self._planner.plan(ref)


class _Process:
    """The driver's view of one process that plans. held: number of drives that it has."""

    def __init__(self, planner: Planner, threads: int) -> None:
        # reserves no CPU: it works only for minutes at the start, and must not take the place of a group
        options = {"num_cpus": 0, "scheduling_strategy": "SPREAD", "max_concurrency": threads + 1}
        self.actor: ActorHandle = ray.remote(**options)(_PlanActor).remote(planner)
        self.up: Future[None] = self.actor.ready.remote().future()
        self.held = 0
        self._heard = 0.0

    @property
    def stuck(self) -> bool:
        """Whether it has drives and returned none for STUCK_S."""
        return self.held > 0 and time.monotonic() - self._heard > STUCK_S

    def plan(self, ref: DriveRef) -> Future[PlannedDrive]:
        """Plan a drive in this process."""
        if not self.held:
            self._heard = time.monotonic()
        self.held += 1
        future: Future[PlannedDrive] = self.actor.plan.remote(ref).future()
        return future

    def gave_back(self) -> None:
        """It returned a drive, or died."""
        self.held -= 1
        self._heard = time.monotonic()


class _Processes:
    """The processes that plan beside the driver. There are none without Ray, or for few drives."""

    def __init__(self, planner: Planner, settings: FleetConfig) -> None:
        self._planner, self._threads, self._count = planner, settings.scan_threads, settings.scan_processes
        self._all: list[_Process] = []
        self._started = False

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the processes, at the first call. They are used once they are up."""
        if self._started or not ray.is_initialized():
            return
        self._started = True
        count = self._count
        if count is None:
            count = default_processes(int(ray.cluster_resources().get("CPU", 0)))
        self._all = [_Process(self._planner, self._threads) for _ in range(count)]

    def stop(self) -> None:
        """Stop using all of them."""
        for process in list(self._all):
            self.drop(process)

    def drop(self, process: _Process) -> None:
        """Stop using one."""
        if process in self._all:
            self._all.remove(process)
            with contextlib.suppress(RayError):  # Ray itself may have ended
                ray.kill(process.actor)

    def drop_stuck(self) -> None:
        """Stop using those that are stuck."""
        for process in [process for process in self._all if process.stuck]:
            self.drop(process)

    @property
    def _up(self) -> list[_Process]:
        for process in [process for process in self._all if process.up.done() and process.up.exception()]:
            self.drop(process)
        return [process for process in self._all if process.up.done()]

    @property
    def room(self) -> int:
        """How many drives the running processes may hold together."""
        return 2 * self._threads * len(self._up)

    def free(self) -> _Process | None:
        """The process with the fewest drives; None where none is up, or all are busy."""
        process = min(self._up, key=lambda process: process.held, default=None)
        return process if process and process.held < 2 * self._threads else None


def default_processes(cpus: int) -> int:
    """How many processes plan beside the driver in a cluster with this many CPUs."""
    return min(max(cpus // CPUS_A_PROCESS, LEAST_PROCESSES), MOST_PROCESSES)


def _refused(refused: Iterable[RefusedDrive], taken: set[str]) -> Iterator[PlannedDrive]:
    for ref in refused:
        name = _free_name(ref.drive_id or "unnamed", taken)
        taken.add(name)
        yield PlannedDrive(DriveRef(name, ref.uri), "bad", ref.reason, "find")


def _free_name(name: str, taken: set[str]) -> str:
    names = (name if number == 1 else f"{name}#{number}" for number in itertools.count(1))
    return next(one for one in names if one not in taken)

"""Passes drives through the network: starts a TorchTrainer group, or runs a single rank in this process. Returns the
outcome of each drive."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray
import ray.train
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.common.root_cause import root_cause
from pipeline.errors import ClusterError
from pipeline.forward.budgets import killed_advice, killed_here
from pipeline.forward.events import Answer, Dropped, Event, EventQueue, GroupLost, Outcome, Staged, Waits
from pipeline.forward.kill_notice import KillNotice
from pipeline.forward.rank_job import WorkerJob
from pipeline.ingest.frames import DriveTask, FrameDataConfig, decode_cpus, local_frames

if TYPE_CHECKING:  # imported, with torch, where a group starts
    from ray.train.torch import TorchTrainer

# How long a group that lost a member waits before it is torn down (Ray's default is 30 s).
_SHUTDOWN_TIMEOUT_S = "5"
_POLL_S = 0.1
# Restarts of a whole group: enough for a lost process or node, few enough to end a hopeless run.
_MAX_RESTARTS = 3
_BARRIER_TIMEOUT_S = 1800.0
# A group that finds no machine for so long reports what it waits for, and reports it again later: an autoscaler takes
# minutes to start a GPU node.
_SAY_WAITS_AFTER_S, _SAY_AGAIN_AFTER_S = 5.0, 300.0

Permit = Callable[[str], Answer | None]
"""A drive's id -> whether the group may begin it; None: ask again later."""


@dataclass(frozen=True)
class GroupSettings:
    """Settings of a group. workers: ranks that share each drive. in_process: the single rank runs in this process."""

    workers: int = 1
    in_process: bool = True
    use_gpu: bool = False
    """One GPU for each rank (`uses_gpus`). It is decided once for a run: a group whose GPUs are missing waits for them
    and never runs without."""
    barrier_timeout_s: float = _BARRIER_TIMEOUT_S
    """A rank may wait at a barrier for as long as another one still reads and computes its share of a drive."""
    retries_after_loss: int = 1
    """How often the group begins a drive again after it lost a member during this drive."""


class GroupError(ClusterError):
    """The group could not start, or could not go on. drive_id: the drive that it worked on, if any."""

    def __init__(self, text: str, drive_id: str | None) -> None:
        super().__init__(text)
        self.drive_id = drive_id


def run_forward(
    job: WorkerJob,
    tasks: Sequence[DriveTask],
    *,
    group: GroupSettings,
    on_event: Callable[[Event], None],
    permit: Permit = lambda drive_id: "go",
) -> dict[str, Outcome]:
    """Pass all drives of `tasks` through the network. Returns drive id -> outcome.

    on_event and permit are called in this thread during the work; permit is called before every drive. An error that
    on_event raises ends a group in this process between two chunks. Raises GroupError where the group cannot run.
    """
    collected: list[Event] = []

    def handle(events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Staged | Dropped | GroupLost):
                collected.append(event)
            on_event(event)

    if group.in_process:
        _run_alone(job, tasks, group, handle, permit)
    else:
        _run_group(job, tasks, group, handle, permit)
    return outcomes_of([task.drive.drive_id for task in tasks], collected)


def _run_alone(
    job: WorkerJob,
    tasks: Sequence[DriveTask],
    group: GroupSettings,
    handle: Callable[[Sequence[Event]], None],
    permit: Permit,
) -> None:
    import torch

    from pipeline.forward.worker import run_here

    class Direct:
        def send(self, event: Event) -> None:
            handle([event])

        def ask(self, drive_id: str) -> Answer:
            while (answer := permit(drive_id)) is None:
                time.sleep(_POLL_S)
            return answer

        def flush(self) -> None:
            pass

    frames = local_frames(tasks, cpus_per_rank=decode_cpus(group.use_gpu))[0]
    try:
        with KillNotice(f"error: {killed_here(job.budgets)}"):
            run_here(job, frames, Direct(), torch.device("cuda" if group.use_gpu else "cpu"))
    finally:
        frames.close()


def _run_group(
    job: WorkerJob,
    tasks: Sequence[DriveTask],
    group: GroupSettings,
    handle: Callable[[Sequence[Event]], None],
    permit: Permit,
) -> None:
    from ray.train.torch import TorchTrainer

    from pipeline.common.process_group import torch_config
    from pipeline.forward.worker import train_loop

    os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", _SHUTDOWN_TIMEOUT_S)
    use_gpu = group.use_gpu
    # on the driver's node: on a lost node it would lose the record of the drive that the group worked on
    beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = ray.remote(num_cpus=0, scheduling_strategy=beside)(_QueueActor).remote(group.retries_after_loss)

    def pending(planned: Sequence[DriveTask], queue: ActorHandle = queue) -> Sequence[DriveTask]:
        left = set(ray.get(queue.begin.remote([task.drive.drive_id for task in planned])))
        return [task for task in planned if task.drive.drive_id in left]

    with tempfile.TemporaryDirectory(prefix="city-train-") as scratch:
        trainer = TorchTrainer(
            train_loop,
            train_loop_config={"job": job, "events": queue, "use_gpu": use_gpu},
            torch_config=torch_config(use_gpu, int(group.barrier_timeout_s)),
            scaling_config=ray.train.ScalingConfig(
                num_workers=group.workers,
                use_gpu=use_gpu,
                resources_per_worker={"GPU": 1, "CPU": 1} if use_gpu else {"CPU": 1},
            ),
            run_config=ray.train.RunConfig(
                storage_path=scratch, failure_config=ray.train.FailureConfig(max_failures=_MAX_RESTARTS)
            ),
            datasets={"frames": lambda: ray.data.range(1)},  # FrameDataConfig puts the real streams under this name
            dataset_config=FrameDataConfig(tasks, pending=pending, cpus_per_rank=decode_cpus(use_gpu)),
        )
        failure = _attended(trainer, group, queue, handle, permit)
        if failure is not None:
            working = ray.get(queue.end.remote())
            died = f"the worker group failed: {root_cause(failure)}{killed_advice(failure)}"
            raise GroupError(died, working) from failure


def _attended(
    trainer: TorchTrainer,
    group: GroupSettings,
    queue: ActorHandle,
    handle: Callable[[Sequence[Event]], None],
    permit: Permit,
) -> BaseException | None:
    """Run the trainer in a thread; pass on events and answer questions until it ends. Returns its error, if any."""
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    def attend() -> None:
        events, asked = ray.get(queue.take.remote())
        handle(events)
        if asked is not None and (answer := permit(asked)) is not None:
            ray.get(queue.answer.remote(asked, answer))

    thread = threading.Thread(target=fit, name="fit", daemon=True)
    thread.start()
    say_at = time.monotonic() + _SAY_WAITS_AFTER_S
    while thread.is_alive():
        thread.join(_POLL_S)
        attend()
        if time.monotonic() > say_at:
            say_at = time.monotonic() + _SAY_AGAIN_AFTER_S
            if (lacking := _lacking(group)) and not ray.get(queue.is_up.remote()):
                handle([Waits(lacking)])
    attend()
    return failure[0] if failure else None


class _QueueActor(EventQueue):
    def take_nothing(self) -> None:
        """Returns after all earlier events of the caller have arrived, because calls of one caller keep their order."""


def _lacking(group: GroupSettings) -> str | None:
    """The machines that the cluster lacks for this group, in words for the user."""
    kind = "GPU" if group.use_gpu else "CPU"
    there = int(ray.cluster_resources().get(kind, 0))
    if there >= group.workers:
        return None
    return f"a group waits for room: it needs {group.workers} {kind}s, and the cluster has {there} now"


def outcomes_of(drive_ids: Sequence[str], events: Sequence[Event]) -> dict[str, Outcome]:
    """The outcome of each drive, from the group's events."""
    outcomes = {}
    for drive_id in drive_ids:
        staged = [e for e in events if isinstance(e, Staged) and e.drive_id == drive_id]
        dropped = [e for e in events if isinstance(e, Dropped) and e.drive_id == drive_id]
        if staged:
            outcomes[drive_id] = Outcome(drive_id, staged[-1].attempt, None, staged[-1].loops)
        elif dropped:
            first = next((e for e in dropped if e.primary), dropped[0])
            outcomes[drive_id] = Outcome(drive_id, None, first.reason)
        elif deaths := sum(isinstance(e, GroupLost) and e.drive_id == drive_id for e in events):
            reason = f"drive {drive_id}: a worker died while it worked on it, {deaths} time{'s' * (deaths > 1)}"
            outcomes[drive_id] = Outcome(drive_id, None, f"{reason}; if memory ran out there, lower --host-memory")
        else:
            outcomes[drive_id] = Outcome(drive_id, None, f"drive {drive_id}: the group ended before its turn")
    return outcomes

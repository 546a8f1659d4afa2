"""The loop of a rank, which passes every planned drive through its phases, in a TorchTrainer group or in the driver.

In: RankFrames (plan and ordered stream of frames). Out: staged predictions and events.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from functools import partial
from typing import TypedDict

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray
from ray.actor import ActorHandle

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.forward.events import Answer, Dropped, Event, EventSink, LoopsFound, Notice, Progress, RankUp, Staged
from pipeline.forward.memory_sync import GroupSync, LocalSync, MemorySync
from pipeline.forward.phases import DrivePhases, DriveShare, DroppedDrive
from pipeline.forward.place_files import write_places
from pipeline.forward.rank_job import WorkerJob
from pipeline.forward.rank_meter import RankMeter
from pipeline.forward.staging import ChunkPrediction, attempt_uri, write_chunk
from pipeline.forward.state_store import TieredStore
from pipeline.ingest.chunks import owned_frames
from pipeline.ingest.frames import DriveTask, RankFrames, iter_chunk_windows
from pipeline.ingest.segments import read_frames
from pipeline.storage.retry import is_retryable

_ASK_AGAIN_S = 0.05


def run_rank(
    job: WorkerJob,
    frames: RankFrames,
    sync: MemorySync,
    device: torch.device,
    events: EventSink,
    workers_here: int = 1,
) -> None:
    """Process all drives of the plan on one rank. If a drive fails, all ranks drop it and continue with the next one.

    workers_here: ranks on this machine, which share its memory.
    """
    torch.set_num_threads(job.threads or max(1, (os.cpu_count() or 1) // workers_here))
    rank = _Rank(job, frames, sync, device, events, workers_here)
    for index in range(len(frames.tasks)):
        answer, attempt = rank.ask(index)
        if answer == "stop":
            break
        if answer == "go":
            rank.process(index, attempt)
    rank.store.close()


class _Rank:
    """One rank with its network, its store of waiting chunks and its meter."""

    def __init__(
        self,
        job: WorkerJob,
        frames: RankFrames,
        sync: MemorySync,
        device: torch.device,
        events: EventSink,
        workers_here: int,
    ) -> None:
        self.job, self.frames, self.sync, self.device, self.events = job, frames, sync, device, events
        self.model = job.network.build(device, lambda line: self._send_once(Notice(line)))
        self.meter = RankMeter(sync.rank)
        self.store = TieredStore(device, job.budgets.resolved(device, workers_here))

    def ask(self, index: int) -> tuple[str, str]:
        """The driver's answer for a drive (go, skip, stop) and the attempt's name, the same on all ranks."""
        said = self.events.ask(self.frames.tasks[index].drive.drive_id) if self.sync.rank == 0 else ""
        attempt = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}"
        answer, attempt = self.sync.broadcast(f"{said} {attempt}").split()
        return answer, attempt

    def process(self, index: int, attempt: str) -> None:
        """Pass a drive through its phases; it ends staged or dropped."""
        task = self.frames.tasks[index]
        drive_id = task.drive.drive_id
        folder = attempt_uri(self.job.output, drive_id, attempt)
        phases = self._phases(task, folder)

        def stage(number: int, prediction: ChunkPrediction) -> None:
            write_chunk(folder, number, prediction)

        self.meter.begin()
        try:
            loops = phases.run(self._share(index), iter_chunk_windows(self.frames, index), stage)
        except DroppedDrive as dropped:
            self._drop(drive_id, folder, dropped)
        else:
            self._send_once(Staged(drive_id, attempt, len(task.chunks), loops))
        self.meter.note_moved(self.store.moved.items())

    def _phases(self, task: DriveTask, folder: str) -> DrivePhases:
        drive_id = task.drive.drive_id

        def progress(phase: str, count: int) -> None:
            self.meter.progressed(phase)
            self.events.send(Progress(drive_id, phase, count))

        def described(rows: NDArray[np.float32]) -> None:
            if self.sync.rank == 0:
                write_places(folder, rows)

        return DrivePhases(
            self.model,
            self.meter.timed(self.sync),
            self.store,
            self.job.settings,
            self.device,
            progress,
            finder=self.job.finder,
            read_frames=partial(read_frames, task),
            loops_found=lambda loops: self._send_once(LoopsFound(drive_id, loops)),
            waiting=self.meter.waiting,
            described=described,
        )

    def _share(self, index: int) -> DriveShare:
        """This rank's chunks of a drive."""
        task, mine = self.frames.tasks[index], self.frames.chunks_of(index)
        owned = owned_frames(task.chunks)
        return DriveShare(
            drive_id=task.drive.drive_id,
            frame_count=task.frame_count,
            chunk_frames={k: task.chunks[k] for k in mine},
            owned={k: owned[k] for k in mine},
            chunk_count=len(task.chunks),
            numbers=task.kept,
            cameras=task.drive.camera_count,
        )

    def _drop(self, drive_id: str, folder: str, dropped: DroppedDrive) -> None:
        """Report why the drive was dropped, and remove its staged files."""
        cause = dropped.__cause__
        knows = cause is not None or dropped.names_frames
        self.events.send(Dropped(drive_id, self.sync.rank, str(dropped), knows, _is_lasting(cause)))
        self.events.flush()
        self.sync.sum(None, failed=False)  # the reason has arrived before rank 0 asks for the next drive
        if self.sync.rank == 0:
            with contextlib.suppress(StorageError):  # the store may be the reason; the driver removes it too
                storage.remove_tree(folder)  # the folder of this attempt only

    def _send_once(self, event: Event) -> None:
        """Send an event that concerns the whole group: only rank 0 sends it."""
        if self.sync.rank == 0:
            self.events.send(event)


def _is_lasting(cause: BaseException | None) -> bool:
    """Whether another try would fail too: the cause is the drive's data or the network, not a store or a machine."""
    return cause is None or not is_retryable(cause)


class ActorSink:
    """Sends events to the driver's EventQueue actor without waiting; a question waits for the driver's answer."""

    def __init__(self, actor: ActorHandle) -> None:
        self.actor = actor

    def send(self, event: Event) -> None:
        """Deliver an event."""
        self.actor.send.remote(event)

    def ask(self, drive_id: str) -> Answer:
        """Whether to begin this drive now."""
        answer: Answer | None
        while (answer := ray.get(self.actor.ask.remote(drive_id))) is None:
            time.sleep(_ASK_AGAIN_S)
        return answer

    def flush(self) -> None:
        """Wait until everything sent has arrived."""
        ray.get(self.actor.take_nothing.remote())


class RankConfig(TypedDict):
    """The configuration that TorchTrainer gives to every rank."""

    job: WorkerJob
    events: ActorHandle
    use_gpu: bool


def train_loop(config: RankConfig) -> None:
    """The function that TorchTrainer runs on every rank."""
    device = ray.train.torch.get_device() if config["use_gpu"] else torch.device("cpu")
    frames = ray.train.get_dataset_shard("frames")
    sink = ActorSink(config["events"])
    node_id = ray.get_runtime_context().get_node_id()
    sink.send(RankUp(ray.train.get_context().get_world_rank(), node_id, os.getpid()))
    here = ray.train.get_context().get_local_world_size()
    with storage.held_root(config["job"].output, make=False):
        run_rank(config["job"], frames, GroupSync(device), device, sink, here)
    sink.flush()


def run_here(job: WorkerJob, frames: RankFrames, events: EventSink, device: torch.device) -> None:
    """The same loop as a single rank in this process, without the start of a group."""
    with storage.held_root(job.output, make=False):
        run_rank(job, frames, LocalSync(), device, events)

"""Candidates through the network: frames of both drives in one joint chunk each, all of them in one start of a group.

The chunks go through the same ranks as those of a reconstruction, as `JointTask`s of some chunks each. Each chunk has a
memory of its own, so a measurement does not depend on the other candidates of the run. A task's chunks are measured
as soon as it is staged.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.common.ray_session import cluster_address, start_ray
from pipeline.errors import PipelineError, StorageError
from pipeline.forward.events import Event, Notice, Outcome, Staged, Waits
from pipeline.forward.gpus import check_gpus, ranks_said
from pipeline.forward.group import run_forward
from pipeline.forward.rank_job import ForwardSettings, WorkerJob
from pipeline.forward.staging import STAGING_FOLDER, ChunkPrediction, attempt_uri, is_staged_file, read_chunk
from pipeline.fuse.candidates import Candidate
from pipeline.fuse.city_files import city_uri
from pipeline.fuse.joint_link import JointLink, joint_link, network_kind
from pipeline.fuse.joint_windows import frame_window, network_size, published_frames, window_of
from pipeline.fuse.published_drives import FusibleDrive
from pipeline.ingest.joint_task import JointTask, Pair, joint_task
from pipeline.leases import Guard
from pipeline.network_settings import NetworkSettings
from pipeline.prepare import group_of, resolve_arithmetic

_A_TASK = 8  # joint chunks of a task, for each rank: what a death of the run costs
_LEAST_WINDOW = 3  # frames of each drive
_EVERY_FRAME_MAY_BE_BAD = 1.0


@dataclass(frozen=True)
class _Chunk:
    """A candidate's joint chunk. place: of the candidate in the list; windows: of frames, as indices of the
    drives' arrays; size: height and width of the network's pictures; pair: how the frames are read."""

    place: int
    windows: tuple[NDArray[np.int64], NDArray[np.int64]]
    size: tuple[int, int]
    pair: Pair


@dataclass(frozen=True, eq=False)
class _HalfPrediction:
    """The frames of one drive in a joint chunk's prediction, as a prediction (`PosedDepth`)."""

    frame_index: NDArray[np.int64]
    cam_from_world: NDArray[np.float32]
    intrinsics: NDArray[np.float32]
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]
    ok: NDArray[np.bool_]

    @staticmethod
    def of(joint: ChunkPrediction, half: int, frame_index: NDArray[np.int64]) -> _HalfPrediction:
        """Every second frame, from `half` on."""
        some = slice(half, None, 2)
        return _HalfPrediction(
            frame_index,
            joint.cam_from_world[some],
            joint.intrinsics[some],
            joint.depth[some],
            joint.confidence[some],
            joint.ok[some],
        )


Told = Callable[[int, JointLink | str], None]
"""The place of a candidate, and what its joint chunk measured: a link, or why there will never be one."""
_Judge = Callable[[_Chunk, ChunkPrediction], None]


class JointChunks:
    """Predicts and measures candidates in joint chunks."""

    def __init__(
        self,
        output: str,
        config: NetworkSettings,
        drives: Sequence[FusibleDrive],
        run_id: str,
        guard: Guard,
        reporter: Reporter,
    ) -> None:
        """output: predictions are staged below its city; guard: raises if the lease is lost. Raises CheckpointError,
        StorageError for weights that cannot be read; ValueError where this machine lacks GPUs that are asked for."""
        self._config = resolve_arithmetic(config, config.ranks)
        self._root, self._drives = city_uri(output), drives
        self._run_id, self._guard, self._reporter = run_id, guard, reporter
        self._model = self._config.network.config()
        self._window = self._model.chunk_size // 2
        self._started = 0
        spec = self._config.network
        self.kind = network_kind(spec)
        check_gpus(config.device, cluster_address(config.address) is not None, config.ranks)
        spec.check()  # reports wrong weights once, not in every worker of a group

    def measure(self, candidates: Sequence[Candidate], told: Told) -> dict[int, str]:
        """Predict and measure candidates in one start of a group; a task that fails is tried again chunk by chunk.

        told: is called with the place of a candidate in the list and its measurement, in any order. Returns why the
        others have none, by place: another run may read and predict them. Raises what `told` raises, GroupError where
        the group cannot run, LeaseLostError, StorageError.
        """
        reasons: dict[int, str] = {}
        chunks: list[_Chunk] = []
        for place, one in enumerate(candidates):
            planned = self._planned(place, one)
            if isinstance(planned, str):
                reasons[place] = planned
            else:
                chunks.append(planned)

        def judge(chunk: _Chunk, prediction: ChunkPrediction) -> None:
            try:
                measured = self._measured(candidates[chunk.place], chunk, prediction)
            except PipelineError as error:  # its drive's points cannot be read
                reasons[chunk.place] = " ".join(str(error).split())
            else:
                told(chunk.place, measured)
            self._reporter.advance("network", 1, len(chunks), "joint chunks")

        if chunks:
            try:
                reasons |= self._predicted(chunks, judge)
            finally:
                clear_joint_staging(self._root)
        return reasons

    def _planned(self, place: int, one: Candidate) -> _Chunk | str:
        """The joint chunk of a candidate, or why there is none."""
        ends = ((self._drives[one.first], one.first_frame), (self._drives[one.second], one.second_frame))
        windows = [window_of(drive, frame, self._window) for drive, frame in ends]
        length = min(len(window) for window in windows)
        if length < min(_LEAST_WINDOW, self._window):
            return f"a drive has only {length} frames with poses of their own near it"
        if length < self._window:
            windows = [window_of(drive, frame, length) for drive, frame in ends]
        sizes = [network_size(drive, self._model.image_size, self._model.patch_size) for drive, _ in ends]
        size = min(sizes)  # of equal widths; a higher picture is cropped
        try:
            first, second = (
                frame_window(drive, window, size) for (drive, _), window in zip(ends, windows, strict=True)
            )
        except PipelineError as error:
            return " ".join(str(error).split())
        return _Chunk(place, (windows[0], windows[1]), size, (first, second))

    def _predicted(self, chunks: Sequence[_Chunk], judge: _Judge) -> dict[int, str]:
        """Predict and judge all chunks. Returns the reasons for those that have no prediction, by place. A task that
        failed is tried again chunk by chunk, because one chunk may be the reason."""
        start_ray(self._config.address, self._config.ranks)
        left = self._passed(chunks, _A_TASK * self._config.ranks, judge)
        alone = [chunk for chunk, _ in left if len(chunks) > 1]
        if alone:
            left = self._passed(alone, 1, judge)
        return {chunk.place: reason for chunk, reason in left}

    def _passed(self, chunks: Sequence[_Chunk], at_a_time: int, judge: _Judge) -> list[tuple[_Chunk, str]]:
        """Pass chunks through the network in one start of a group. Returns those without prediction, with reasons."""
        self._started += 1
        tasks, of = self._tasks(chunks, at_a_time)
        group = group_of(self._config)
        settings = ForwardSettings("chunk", self._config.orthogonalise_precision, _EVERY_FRAME_MAY_BE_BAD)
        job = WorkerJob(self._config.network, settings, self._root, self._config.threads, None, self._config.budgets)
        self._reporter.say(
            f"{len(chunks):,} joint chunks on {ranks_said(group.workers, group.use_gpu, group.in_process)}"
        )

        def on_event(event: Event) -> None:
            self._guard()
            if isinstance(event, Waits | Notice):
                self._reporter.say(event.said)
            elif isinstance(event, Staged):
                folder = attempt_uri(self._root, event.drive_id, event.attempt)
                for number, chunk in enumerate(of[event.drive_id]):
                    judge(chunk, read_chunk(folder, number))
                with contextlib.suppress(StorageError):  # the end of the run removes it
                    storage.remove_tree(storage.parent_and_name(folder)[0])

        outcomes = run_forward(job, tasks, group=group, on_event=on_event)
        failed = {name: _reason(outcome) for name, outcome in outcomes.items() if outcome.attempt is None}
        return [(chunk, reason) for name, reason in failed.items() for chunk in of[name]]

    def _tasks(self, chunks: Sequence[_Chunk], at_a_time: int) -> tuple[list[JointTask], dict[str, Sequence[_Chunk]]]:
        alike: dict[tuple[tuple[int, int], int], list[_Chunk]] = defaultdict(list)
        for chunk in chunks:
            alike[chunk.size, len(chunk.windows[0])].append(chunk)
        tasks: list[JointTask] = []
        of: dict[str, Sequence[_Chunk]] = {}
        for (size, _), some in sorted(alike.items(), key=lambda item: item[0]):
            for start in range(0, len(some), at_a_time):
                name = f"joint-{self._run_id}-{self._started}-{len(tasks)}"
                of[name] = some[start : start + at_a_time]
                tasks.append(joint_task(name, [chunk.pair for chunk in of[name]], *size))
        return tasks, of

    def _measured(self, one: Candidate, chunk: _Chunk, prediction: ChunkPrediction) -> JointLink | str:
        ends = ((self._drives[one.first], one.first_frame), (self._drives[one.second], one.second_frame))
        published = [
            published_frames(drive, window, chunk.size) for (drive, _), window in zip(ends, chunk.windows, strict=True)
        ]
        poses = [drive.opened.cameras.world_from_camera[place] for drive, place in ends]
        first, second = (_HalfPrediction.of(prediction, n, half.frame_index) for n, half in enumerate(published))
        return joint_link((first, second), (published[0], published[1]), (poses[0], poses[1]))


def _reason(outcome: Outcome) -> str:
    return " ".join((outcome.reason or "the network gave no prediction").split())


def clear_joint_staging(root: str) -> None:
    """Remove the staged predictions of joint chunks below a city, also those of runs that died; other files stay.
    Errors of the store are ignored: the next run removes them."""
    folder = storage.join(root, STAGING_FOLDER)
    with contextlib.suppress(StorageError):
        below = storage.list_below(folder)
        storage.remove_below(folder, [path for path in below if is_staged_file(path.partition("/")[2])])

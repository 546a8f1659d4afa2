"""READ FIRST. One drive, stage after stage: frames -> chunks -> network -> one trajectory -> Parquet.

prepare   finds the frames, the frames in which the car stands, and the chunks (`prepare.py`)
forward   streams frames to the ranks, and stages the predictions of every chunk
refine    adjusts cameras and depth to tracks of corners, which the decoding tasks make (`finish.py`, as all below)
join      joins the chunks into one trajectory, and judges it
publish   writes poses, points and chunks; the manifest last
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from functools import partial

from pipeline import publish, storage
from pipeline.common.progress import Reporter
from pipeline.common.ray_session import cluster_address, start_ray
from pipeline.common.run_id import new_run_id
from pipeline.config import RunConfig
from pipeline.errors import DriveError, StorageError
from pipeline.finish import Reconstruction, join_and_publish, staged_drive
from pipeline.forward import Progress
from pipeline.forward.events import Event, LoopsFound, Notice, Outcome, Waits
from pipeline.forward.gpus import check_gpus, ranks_said
from pipeline.forward.group import run_forward
from pipeline.forward.staging import STAGING_FOLDER
from pipeline.ingest.frames import DriveTask
from pipeline.leases import Leases
from pipeline.prepare import group_of, make_task, read_drive, resolve_settings, worker_job
from pipeline.publish import Decision, Manifest
from pipeline.result_identity import decide
from pipeline.staged_drive import (
    clear_staging,
    remove_staging,
    write_staged_drive,
)


def reconstruct(config: RunConfig, reporter: Reporter, noted: Sequence[str] = ()) -> Reconstruction:
    """Reconstruct config.input and publish it.

    Does nothing where a result of the same input, weights and settings exists (unless `overwrite` is set). An outdated
    result stays readable until the new one replaces it. noted: notes on parts of the input that are not used, for the
    result.

    Raises PipelineError or ValueError with one line that says what to do. An incomplete result is never visible.
    """
    if config.input is None:
        raise ValueError("an input is needed: a folder of images, a KITTI sequence or a video")
    output = storage.absolute(config.output)
    with reporter.timed("find"):
        drive = read_drive(config)
        for note in drive.notes:
            reporter.say(f"drive {drive.drive_id}: {note}")
        model = config.network.config()
        config = resolve_settings(config, model)
        weights_sha256 = config.network.sha256()
        decision = decide(drive, weights_sha256, config, output)
        if decision.done and publish.is_settled(_manifest_of(decision)):
            return _already_there(_manifest_of(decision), output, config)
        if not decision.done:
            if decision.why:
                reporter.say(f"drive {drive.drive_id}: {decision.why}")
            if config.ranks > 1:
                config.network.check()  # reports wrong weights once, not in every worker of a group
            check_gpus(config.device, cluster_address(config.address) is not None, config.ranks)
            check_writable(output, drive.drive_id)
    with storage.held_root(output, make=True), Leases(output, new_run_id(), config.fleet.lease_s) as leases:
        lease = leases.take_when_free(drive.drive_id)
        decision = decide(drive, weights_sha256, config, output)  # another may have published it before the lease
        if decision.done:
            return _already_there(publish.settle(output, drive.drive_id, lease.guard), output, config)
        try:
            with reporter.timed("start Ray"):
                start_ray(config.address, config.all_ranks)
            with reporter.timed("scan"):
                task = make_task(drive, config, model, partial(_scanned, reporter, drive.frame_count))
            still = drive.frame_count - task.frame_count
            reporter.say(
                f"drive {drive.drive_id}: {drive.frame_count} frames of {drive.source_width}x{drive.source_height}"
                f"{f' ({still} of them stand still)' if still else ''}, "
                f"{len(task.chunks)} chunks of {config.chunk_size} (overlap {config.overlap}), "
                f"network {task.width}x{task.height}"
            )
            with reporter.timed("forward"):
                outcome = forward(task, config, output, reporter)
            staged = staged_drive(task, outcome, config, noted)
            if config.keep_predictions:
                write_staged_drive(output, staged, config)
            result = join_and_publish(staged, config, output, reporter, partial(leases.keep, lease))
        except BaseException:
            clear_staging(output, drive.drive_id, lease.guard)
            raise
        if not config.keep_predictions:
            with contextlib.suppress(StorageError):  # it is published; the next run over many drives removes the rest
                remove_staging(output, drive.drive_id)
        return result


def forward(task: DriveTask, config: RunConfig, output: str, reporter: Reporter) -> Outcome:
    """Pass all chunks and loop chunks through the network. The outcome names the attempt whose predictions are
    staged."""
    drive_id = task.drive.drive_id
    loops = 0

    def on_event(event: Event) -> None:
        nonlocal loops
        if isinstance(event, LoopsFound):
            loops = event.count
            reporter.say(f"drive {event.drive_id}: {loops} places may have been seen twice")
        elif isinstance(event, Waits | Notice):
            reporter.say(event.said)
        elif isinstance(event, Progress):
            totals = {"frames": (task.frame_count, "frames"), "loops": (loops, "loops")}
            total, unit = totals.get(event.phase, (len(task.chunks) + loops, "chunks"))
            reporter.advance(event.phase, event.count, total, unit)

    group = group_of(config, config.fleet.barrier_timeout_s)
    reporter.say(f"drive {drive_id}: the network runs on {ranks_said(group.workers, group.use_gpu, group.in_process)}")
    outcome = run_forward(worker_job(config, output), [task], group=group, on_event=on_event)[drive_id]
    if outcome.attempt is None:
        raise DriveError(outcome.reason or f"drive {drive_id}: the network gave no result")
    return outcome


def _scanned(reporter: Reporter, total: int, frames: int) -> None:
    reporter.advance("scan", frames, total, "frames")


def _manifest_of(decision: Decision) -> Manifest:
    assert decision.existing.manifest is not None
    return decision.existing.manifest


def _already_there(manifest: Manifest, output: str, config: RunConfig) -> Reconstruction:
    return Reconstruction(manifest, storage.join(output, manifest.drive_id), True, {}, None, config.network.trained)


def check_writable(output: str, drive_id: str) -> None:
    """Raises StorageError where the output cannot be written: before the work, not after it."""
    folder, probe = storage.join(output, STAGING_FOLDER, drive_id), f"writable-{uuid.uuid4().hex}"
    try:
        storage.write_bytes_atomically(storage.join(folder, probe), b"")
        storage.remove_below(folder, [probe])
    except StorageError as error:
        raise StorageError(f"drive {drive_id}: the output cannot be written: {error}") from error

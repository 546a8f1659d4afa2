"""All steps before the network: find the drive, resolve the settings, choose frames and chunks, describe the ranks'
work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from models.config import ModelConfig
from pipeline import storage
from pipeline.common.ray_session import cluster_address, start_ray
from pipeline.config import RunConfig
from pipeline.forward.gpus import has_bfloat16, uses_gpus
from pipeline.forward.group import GroupSettings
from pipeline.forward.rank_job import ForwardSettings, WorkerJob
from pipeline.georeference import with_positions
from pipeline.ingest.chunks import plan_chunks
from pipeline.ingest.drives import Drive, find_drive
from pipeline.ingest.frames import DriveTask
from pipeline.ingest.preprocess import target_size
from pipeline.ingest.scan import scan_drive
from pipeline.ingest.segments import FrameTracker
from pipeline.ingest.stops import shift_borders
from pipeline.loop_finder import DetectedLoops
from pipeline.network_settings import NetworkSettings
from pipeline.refine.standing import NearThings
from pipeline.tracked_drive import tracker_of

S = TypeVar("S", bound=NetworkSettings)

_LEAST_SEGMENT = 30  # frames of a segment: tracks of two segments are linked only through one shared picture


def read_drive(config: RunConfig) -> Drive:
    """The drive that the settings name. Raises the errors of find_drive."""
    assert config.input is not None
    drive = find_drive(
        config.input,
        drive_id=config.drive_id,
        stride=config.stride,
        fps=config.fps,
        start=config.start,
        end=config.end,
        turn=config.rotate,
        camera=config.camera,
        masks=config.masks,
        join=config.join_clips,
        rig=config.rig,
        rig_tolerance_s=config.rig_tolerance,
    )
    return with_positions(drive, config.positions)


def resolve_settings(config: RunConfig, model: ModelConfig) -> RunConfig:
    """The settings with the values that network and machines decide: chunk size, overlap, precision, compiling.

    The identity of a result depends on them. Joins the cluster where its machines decide.
    """
    return resolve_arithmetic(config.with_network_defaults(model), config.all_ranks)


def resolve_arithmetic(config: S, ranks: int) -> S:
    """The settings with precision and compiling as network and machines decide. ranks: for which Ray has room if it is
    started here. Joins the cluster where its machines decide."""
    in_cluster = cluster_address(config.address) is not None
    if in_cluster and (config.precision == "auto" or config.compile_blocks is None):
        start_ray(config.address, ranks)
    on_gpus = config.device == "gpu" or uses_gpus(config.device, in_cluster)
    bfloat16 = on_gpus and config.precision == "auto" and has_bfloat16(in_cluster)
    return config.with_arithmetic(on_gpus, bfloat16)


def make_task(
    drive: Drive, config: RunConfig, model: ModelConfig, scanned: Callable[[int], None] = lambda frames: None
) -> DriveTask:
    """The network's task for a drive: the frames that are used, the chunks, the size of frames.

    With --stops or --turns it first scans the whole drive in Ray tasks (Ray must be started). Of a drive of several
    cameras it chooses and cuts instants: the frames of all cameras of an instant are used, left out and put into chunks
    together. Corners are followed through the frames of each camera. Where two calibrated cameras look the same way
    from known places, the car's motion is measured with them.

    config: resolved settings. scanned: called with the number of frames scanned since the last call. Raises
    StorageError.
    """
    height, width = target_size(drive.source_width, drive.source_height, model.image_size, model.patch_size)
    cameras = drive.camera_count
    size, overlap = instants_of_chunk(config, cameras)
    kept, chunks = _kept_and_chunks(drive.of_reference, config, size, overlap, scanned)
    kept = None if kept is None else tuple(i * cameras + camera for i in kept for camera in range(cameras))
    numbers, output = range(drive.frame_count) if kept is None else kept, storage.absolute(config.output)
    tracker: FrameTracker | None = tracker_of(output, drive, drive.rig, numbers, (width, height))
    return DriveTask(
        drive,
        height,
        width,
        tuple(range(chunk.start * cameras, chunk.stop * cameras) for chunk in chunks),
        segment_length=max((size - overlap) * cameras, _LEAST_SEGMENT),
        kept=kept,
        tracker=tracker,
    )


def instants_of_chunk(config: RunConfig, cameras: int) -> tuple[int, int]:
    """Chunk size and overlap in instants. Chunks of several cameras have about as many frames as those of one."""
    assert config.chunk_size is not None and config.overlap is not None
    if cameras == 1:
        return config.chunk_size, config.overlap
    size = max(config.chunk_size // cameras, 2)
    return size, min(max(config.overlap // cameras, 1), size - 1)


def _kept_and_chunks(
    drive: Drive, config: RunConfig, size: int, overlap: int, scanned: Callable[[int], None]
) -> tuple[tuple[int, ...] | None, Sequence[range]]:
    """The frames of one camera that are used (None: all), and the chunks of them, whose borders lie outside turns."""
    if not (config.stops or config.turns):
        return None, plan_chunks(drive.frame_count, size, overlap)
    scan = scan_drive(drive, config.stop if config.stops else None, config.turns, NearThings(), scanned)
    chunks = plan_chunks(len(scan.kept), size, overlap)
    if config.turns:
        reach = int(config.turn.reach * (size - overlap))
        chunks = shift_borders(chunks, scan.turned, overlap, reach, config.turn.price)
    return scan.kept, chunks


def worker_job(config: RunConfig, output: str) -> WorkerJob:
    """The job of the ranks. config: resolved settings."""
    return WorkerJob(
        network=config.network,
        settings=ForwardSettings(config.memory_scope, config.orthogonalise_precision, config.max_bad_share),
        output=output,
        threads=config.threads,
        finder=DetectedLoops(config.loop, config.chunk_size or 0) if config.loops else None,
        budgets=config.budgets,
    )


def group_of(config: NetworkSettings, barrier_timeout_s: float = GroupSettings.barrier_timeout_s) -> GroupSettings:
    """The group that passes drives through the network, one after the other. A single rank without a cluster runs in
    this process."""
    in_cluster = cluster_address(config.address) is not None
    return GroupSettings(
        config.ranks, config.ranks == 1 and not in_cluster, uses_gpus(config.device, in_cluster), barrier_timeout_s
    )

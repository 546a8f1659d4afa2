"""All steps before the network: find the drive, resolve the settings, choose frames and chunks, describe the ranks'
work."""

from __future__ import annotations

from collections.abc import Callable

from models import ModelConfig
from pipeline import storage
from pipeline.common.ray_session import cluster_address, start_ray
from pipeline.config import RunConfig
from pipeline.forward import DTYPES, ForwardSettings
from pipeline.forward.group import has_bfloat16, uses_gpus
from pipeline.forward.worker import WorkerJob
from pipeline.georeference import with_positions
from pipeline.ingest.chunks import plan_chunks
from pipeline.ingest.drives import Drive, find_drive
from pipeline.ingest.frames import DriveTask
from pipeline.ingest.preprocess import target_size
from pipeline.ingest.scan import scan_drive
from pipeline.ingest.stops import shift_borders
from pipeline.loop_finder import DetectedLoops
from pipeline.refine.standing import NearThings
from pipeline.refined_drive import tracker_of

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
    in_cluster = cluster_address(config.address) is not None
    if in_cluster and (config.precision == "auto" or config.compile_blocks is None):
        start_ray(config.address, config.all_ranks)
    on_gpus = config.device == "gpu" or uses_gpus(config.device, in_cluster)
    bfloat16 = on_gpus and config.precision == "auto" and has_bfloat16(in_cluster)
    return config.with_network_defaults(model).with_arithmetic(on_gpus, bfloat16)


def make_task(
    drive: Drive, config: RunConfig, model: ModelConfig, scanned: Callable[[int], None] = lambda frames: None
) -> DriveTask:
    """What the network has to do for a drive: the frames that are used, the chunks, the size of frames.

    With --stops or --turns it first scans the whole drive in Ray tasks (Ray must be started). config: resolved
    settings. scanned: called with the number of frames scanned since the last call. Raises StorageError.
    """
    size, overlap = config.chunk_size, config.overlap
    assert size is not None and overlap is not None
    height, width = target_size(drive.source_width, drive.source_height, model.image_size, model.patch_size)
    length = max(size - overlap, _LEAST_SEGMENT)
    output = storage.absolute(config.output)
    if drive.rig is not None:
        return _plan_rig(drive, config, (height, width), scanned)
    if not (config.stops or config.turns):
        chunks = plan_chunks(drive.frame_count, size, overlap)
        tracker = tracker_of(output, drive, range(drive.frame_count))
        return DriveTask(drive, height, width, chunks, segment_length=length, tracker=tracker)
    scan = scan_drive(drive, config.stop if config.stops else None, config.turns, NearThings(), scanned)
    chunks = plan_chunks(len(scan.kept), size, overlap)
    if config.turns:
        reach = int(config.turn.reach * (size - overlap))
        chunks = shift_borders(chunks, scan.turned, overlap, reach, config.turn.price)
    tracker = tracker_of(output, drive, scan.kept)
    return DriveTask(drive, height, width, chunks, segment_length=length, kept=scan.kept, tracker=tracker)


def _plan_rig(
    drive: Drive, config: RunConfig, frame_size: tuple[int, int], scanned: Callable[[int], None]
) -> DriveTask:
    """As `make_task`, in instants: the frames of all cameras of an instant are used, left out and put into chunks
    together. Chunks have about as many frames as those of one camera. Corners are not followed, because neighbouring
    frames are of different cameras.
    """
    count, reference = drive.camera_count, drive.of_reference
    assert config.chunk_size is not None and config.overlap is not None
    size = max(config.chunk_size // count, 2)
    overlap = min(max(config.overlap // count, 1), size - 1)
    kept = tuple(range(reference.frame_count))
    turned = None
    if config.stops or config.turns:
        scan = scan_drive(reference, config.stop if config.stops else None, config.turns, NearThings(), scanned)
        kept, turned = scan.kept, scan.turned
    chunks = plan_chunks(len(kept), size, overlap)
    if config.turns and turned is not None:
        reach = int(config.turn.reach * (size - overlap))
        chunks = shift_borders(chunks, turned, overlap, reach, config.turn.price)
    return DriveTask(
        drive,
        *frame_size,
        tuple(range(chunk.start * count, chunk.stop * count) for chunk in chunks),
        segment_length=max((size - overlap) * count, _LEAST_SEGMENT),
        kept=tuple(instant * count + camera for instant in kept for camera in range(count)),
    )


def worker_job(config: RunConfig, output: str) -> WorkerJob:
    """What every rank needs to know. config: resolved settings."""
    return WorkerJob(
        network=config.network,
        settings=ForwardSettings(config.memory_scope, DTYPES[config.orthogonalise_precision], config.max_bad_share),
        output=output,
        threads=config.threads,
        finder=DetectedLoops(config.loop, config.chunk_size or 0) if config.loops else None,
        budgets=config.budgets,
    )

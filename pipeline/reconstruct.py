"""READ FIRST. One drive, stage after stage: frames -> chunks -> network -> one trajectory -> Parquet.

ingest    what the drive is, where the car stands, which chunks it is cut into
forward   frames stream to the workers, predictions of every chunk are staged
refine    cameras and depth are adjusted to tracks of corners, which decoding has made
backend   chunks are joined into one trajectory
publish   poses, points, chunks, manifest last
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from models import ModelConfig
from pipeline import publish, storage
from pipeline.backend import Verdict, assess_quality
from pipeline.backend.lens import lens_findings
from pipeline.common.code_version import code_version
from pipeline.common.progress import Reporter
from pipeline.common.ray_session import cluster_address, start_ray
from pipeline.common.run_id import new_run_id
from pipeline.config import RunConfig
from pipeline.errors import DriveError, StorageError
from pipeline.forward import DTYPES, ForwardSettings, Progress
from pipeline.forward.events import Event, LoopsFound, Notice, Waits
from pipeline.forward.group import GroupSettings, Outcome, check_gpus, has_bfloat16, ranks_said, run_forward, uses_gpus
from pipeline.forward.place_files import read_places
from pipeline.forward.staging import STAGING_FOLDER
from pipeline.forward.worker import WorkerJob
from pipeline.georeference import with_positions
from pipeline.image_tables import evidence_columns, track_columns
from pipeline.image_verdict import judge_images, judged_windows
from pipeline.ingest.chunks import plan_chunks
from pipeline.ingest.content_sample import content_sample
from pipeline.ingest.dataset_times import PICTURES
from pipeline.ingest.drives import Drive, find_drive
from pipeline.ingest.frames import DriveTask
from pipeline.ingest.preprocess import target_size
from pipeline.ingest.scan import scan_drive
from pipeline.ingest.stops import shift_borders
from pipeline.leases import Guard, Leases
from pipeline.loop_finder import DetectedLoops
from pipeline.publish import Decision, DriveFacts, Manifest, RunFacts, Source
from pipeline.refined_drive import link_tracks, refine_staged, tracker_of
from pipeline.staged_drive import (
    StagedDrive,
    clear_staging,
    join_staged,
    remove_staging,
    staged_frames,
    write_staged_drive,
)

_LEAST_SEGMENT = 30  # frames that are decoded in one go: tracks go on from one to the next through one picture only
_UNTRACKED = (
    "nothing can be followed through the images (300 pixels at least): they neither refine nor judge this result"
)

_NOTES_BESIDE = 20  # of what lies beside a drive, in its result


@dataclass(frozen=True)
class Reconstruction:
    """What became of a drive: its manifest, where it is, whether it was there before this run."""

    manifest: Manifest
    uri: str
    was_there: bool
    bad_frames: dict[int, str]
    verdict: Verdict | None
    trained: bool
    notes: tuple[str, ...] = ()


def reconstruct(config: RunConfig, reporter: Reporter, noted: Sequence[str] = ()) -> Reconstruction:
    """Reconstruct config.input and publish it. Does nothing where the result is there, made of the same input, weights
    and settings (but `overwrite`); one made of others stays readable until the new one takes its place. noted: what was
    found of the input that is not used, for the result to say.

    Raises PipelineError or ValueError with one line that says what to do; nothing that looks like a result is left
    behind then.
    """
    if config.input is None:
        raise ValueError("an input is needed: a folder of images, a KITTI sequence or a video")
    output = storage.absolute(config.output)
    with reporter.timed("find"):
        drive = read_drive(config)
        for note in drive.notes:
            reporter.say(f"drive {drive.drive_id}: {note}")
        model = config.network.config()
        config = settled(config, model)
        weights_sha256 = config.network.sha256()
        decision = decide(drive, weights_sha256, config, output)
        if decision.done and publish.is_settled(_manifest_of(decision)):
            return _already_there(_manifest_of(decision), output, config)
        if not decision.done:
            if decision.why:
                reporter.say(f"drive {drive.drive_id}: {decision.why}")
            if config.ranks > 1:
                config.network.check()  # wrong weights are said here at once, not by every worker of a group
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
                task = plan(drive, config, model, partial(_scanned, reporter, drive.frame_count))
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
            with contextlib.suppress(StorageError):  # it is published; the next run over many clears up
                remove_staging(output, drive.drive_id)
        return result


def read_drive(config: RunConfig) -> Drive:
    """The drive that the settings name. Raises what find_drive raises."""
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
    )
    return with_positions(drive, config.positions)


def settled(config: RunConfig, model: ModelConfig) -> RunConfig:
    """The settings with all filled in that the network and the machines decide: chunks, precision, compiling.

    A result is known by them. Joins the cluster, if there is one and they depend on it: its machines are asked.
    """
    in_cluster = cluster_address(config.address) is not None
    if in_cluster and (config.precision == "auto" or config.compile_blocks is None):
        start_ray(config.address, config.all_ranks)
    on_gpus = config.device == "gpu" or uses_gpus(config.device, in_cluster)
    bfloat16 = on_gpus and config.precision == "auto" and has_bfloat16(in_cluster)
    return config.with_network_defaults(model).with_arithmetic(on_gpus, bfloat16)


def plan(
    drive: Drive, config: RunConfig, model: ModelConfig, scanned: Callable[[int], None] = lambda frames: None
) -> DriveTask:
    """What is to be done for a drive: which frames are left out, chunks, the size that frames get.

    Looks through the whole drive first, in Ray tasks (Ray must run), unless neither --stops nor --turns ask for it.
    config has its chunk size and overlap filled in; scanned is told how many more frames were looked at. Raises
    StorageError where the store does not answer.
    """
    size, overlap = config.chunk_size, config.overlap
    assert size is not None and overlap is not None
    height, width = target_size(drive.source_width, drive.source_height, model.image_size, model.patch_size)
    length = max(size - overlap, _LEAST_SEGMENT)
    output = storage.absolute(config.output)
    if not (config.stops or config.turns):
        chunks = plan_chunks(drive.frame_count, size, overlap)
        tracker = tracker_of(output, drive, range(drive.frame_count))
        return DriveTask(drive, height, width, chunks, segment_length=length, tracker=tracker)
    scan = scan_drive(drive, config.stop if config.stops else None, config.turns, scanned)
    chunks = plan_chunks(len(scan.kept), size, overlap)
    if config.turns:
        reach = int(config.turn.reach * (size - overlap))
        chunks = shift_borders(chunks, scan.turned, overlap, reach, config.turn.price)
    tracker = tracker_of(output, drive, scan.kept)
    return DriveTask(drive, height, width, chunks, segment_length=length, kept=scan.kept, tracker=tracker)


def worker_job(config: RunConfig, output: str) -> WorkerJob:
    """What every rank is told. config has its chunk size filled in."""
    return WorkerJob(
        network=config.network,
        settings=ForwardSettings(config.memory_scope, DTYPES[config.orthogonalise_precision], config.max_bad_share),
        output=output,
        threads=config.threads,
        finder=DetectedLoops(config.loop, config.chunk_size or 0) if config.loops else None,
        budgets=config.budgets,
    )


def forward(task: DriveTask, config: RunConfig, output: str, reporter: Reporter) -> Outcome:
    """The network over all chunks and loop chunks; says under which attempt the predictions are staged."""
    drive_id = task.drive.drive_id
    loops = 0

    def on_event(event: Event) -> None:
        nonlocal loops
        if isinstance(event, LoopsFound):
            loops = event.count
            reporter.say(f"drive {event.drive_id}: {loops} places may have been seen before")
        elif isinstance(event, Waits | Notice):
            reporter.say(event.said)
        elif isinstance(event, Progress):
            totals = {"frames": (task.frame_count, "frames"), "loops": (loops, "loops")}
            total, unit = totals.get(event.phase, (len(task.chunks) + loops, "chunks"))
            reporter.advance(event.phase, event.count, total, unit)

    in_cluster = cluster_address(config.address) is not None
    group = GroupSettings(
        config.ranks,
        config.ranks == 1 and not in_cluster,
        uses_gpus(config.device, in_cluster),
        config.fleet.barrier_timeout_s,
    )
    reporter.say(f"drive {drive_id}: the network runs on {ranks_said(group.workers, group.use_gpu, group.in_process)}")
    outcome = run_forward(worker_job(config, output), [task], group=group, on_event=on_event)[drive_id]
    if outcome.attempt is None:
        raise DriveError(outcome.reason or f"drive {drive_id}: the network gave no result")
    return outcome


def staged_drive(task: DriveTask, outcome: Outcome, config: RunConfig, noted: Sequence[str] = ()) -> StagedDrive:
    """All that the stages behind the network need to know, with frames under their numbers in the drive. noted: of the
    whole input; the drive takes what is about its own folder and those beside it."""
    numbers = task.numbers
    loops = tuple(
        replace(
            loop,
            first=numbers[loop.first],
            second=numbers[loop.second],
            frames=tuple(numbers[place] for place in loop.frames),
        )
        for loop in outcome.loops
    )
    return StagedDrive(
        facts_of(task, notes_beside(noted, task.drive.source_uri)),
        outcome.attempt or "",
        len(task.chunks),
        loops,
        tuple(numbers),
        config.network.sha256(),
        config.network.trained,
        tuple((chunk.start, chunk.stop - 1) for chunk in task.chunks),
    )


def facts_of(task: DriveTask, notes: Sequence[str] = ()) -> DriveFacts:
    """What the result says of its input; notes: besides the drive's own."""
    drive = task.drive
    return DriveFacts(
        drive_id=drive.drive_id,
        source_uri=drive.source_uri,
        frame_uris=drive.frame_uris(),
        timestamps_ns=drive.timestamps_ns,
        source_width=drive.source_width,
        source_height=drive.source_height,
        net_width=task.width,
        net_height=task.height,
        listing=drive.listing,
        picture=drive.picture,
        sample=content_sample(drive),
        notes=(*drive.notes, *notes),
        camera=drive.camera,
        network_camera=task.network_camera,
        positions=drive.positions,
    )


def notes_beside(noted: Sequence[str], uri: str) -> tuple[str, ...]:
    """Those notes that name a place in a drive's folder, or in the folder that holds it; the first few."""
    above, name = storage.parent_and_name(uri)
    if name == PICTURES:  # image_02/data of KITTI raw, cam0/data of EuRoC: others lie beside image_02
        above = storage.parent_and_name(above)[0]
    above = storage.redacted(above).rstrip("/") + "/"
    return tuple(note for note in list(noted) if above in note)[:_NOTES_BESIDE] if len(above) > 1 else ()


def result_identity(drive: Drive | DriveFacts, weights_sha256: str | None, config: RunConfig) -> str:
    """What a result of this drive, these weights and these settings is known by."""
    return publish.drive_identity(drive.listing, weights_sha256, {**config.result_settings(), **drive.picture})


def join_and_publish(
    staged: StagedDrive, config: RunConfig, output: str, reporter: Reporter, guard: Guard
) -> Reconstruction:
    """Everything behind the network: windows refined, one trajectory, a verdict on it, Parquet with the manifest last.

    guard is that of the drive's lease, which whoever publishes holds; it is called before every step that others see,
    and what it raises ends the publishing.
    """
    facts = staged.facts
    with reporter.timed("refine"):
        frames, refined = staged_frames(staged, config, output), None
        if link_tracks(frames):
            refined = refine_staged(
                frames, config.refine, lambda done, of: reporter.advance("refine", 1, of, "windows")
            )
    with reporter.timed("join"):
        join = join_staged(staged, frames, config, refined)
        chunks, joined, positions = join.chunks, join.joined, join.positions
        is_calibrated = facts.camera is not None and facts.camera.origin == "calibration"
        of_lens = lens_findings(frames.chunks().line_evidence(), range(facts.frame_count), is_calibrated)
        verdict = assess_quality(joined, judged_windows(config.backend.quality, refined), of_lens)
        tracks = evidence = None
        if refined is not None:
            verdict, pairs = judge_images(verdict, joined, join.witnessed, frames, refined, chunks.camera)
            tracks, evidence = track_columns(frames, refined, joined), evidence_columns(pairs, joined)
    for note in positions.notes:
        reporter.say(f"drive {facts.drive_id}: {note}")
    notes = (*facts.notes, *positions.notes, *(refined.notes if refined else (_UNTRACKED,)))
    bad_frames = {str(frame): reason for frame, reason in sorted(chunks.bad_frames.items())}
    run = RunFacts(
        identity=result_identity(facts, staged.weights_sha256, config),
        weights_sha256=staged.weights_sha256,
        config=asdict(config),
        code_version=code_version(),
        timings=dict(reporter.seconds),
        quality={**verdict.to_dict(), "bad_frames": bad_frames, "notes": list(notes)},
        georeference=positions.georeference(joined.georeference, config.positions),
        metric=None if joined.metric is None else asdict(joined.metric),
        positions=positions.columns(joined.georeference),
        places=read_places(frames.folder, staged.kept),
        tracks=tracks,
        evidence=evidence,
    )

    def progress(done: int, total: int, points: int) -> None:
        reporter.advance("points", 1, total, "chunks")

    with reporter.timed("publish"):
        manifest = publish.publish_drive(
            output,
            facts,
            chunks,  # type: ignore[arg-type]  # has what is asked of a sequence
            joined,
            config.publish,
            run,
            progress,
            overwrite=True,
            guard=guard,
            mask=chunks.static,
        )
    uri = storage.join(output, facts.drive_id)
    return Reconstruction(manifest, uri, False, chunks.bad_frames, verdict, staged.trained, notes)


def _scanned(reporter: Reporter, total: int, frames: int) -> None:
    reporter.advance("scan", frames, total, "frames")


def decide(drive: Drive, weights_sha256: str, config: RunConfig, output: str, *, of_many: bool = False) -> Decision:
    """What is to be done for a drive, by what lies under its name: see pipeline.publish.standing."""

    def same() -> Iterator[str]:
        for settings in config.same_result_settings():
            yield publish.drive_identity(drive.listing, weights_sha256, {**settings, **drive.picture})

    source = Source(drive.source_uri, drive.listing, partial(content_sample, drive))
    identity = result_identity(drive, weights_sha256, config)
    return publish.decide(
        output, drive.drive_id, identity, source, overwrite=config.overwrite, of_many=of_many, same=same
    )


def _manifest_of(decision: Decision) -> Manifest:
    assert decision.standing.manifest is not None
    return decision.standing.manifest


def _already_there(manifest: Manifest, output: str, config: RunConfig) -> Reconstruction:
    return Reconstruction(manifest, storage.join(output, manifest.drive_id), True, {}, None, config.network.trained)


def check_writable(output: str, drive_id: str) -> None:
    """Fail before the work, not after it, where the output cannot be written."""
    folder, probe = storage.join(output, STAGING_FOLDER, drive_id), f"writable-{uuid.uuid4().hex}"
    try:
        storage.write_bytes_atomically(storage.join(folder, probe), b"")
        storage.remove_below(folder, [probe])
    except StorageError as error:
        raise StorageError(f"drive {drive_id}: the output cannot be written: {error}") from error

"""All steps after the network: staged chunks are refined, joined into one trajectory, judged and published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

from pipeline import publish, storage
from pipeline.backend import Verdict, assess_quality
from pipeline.backend.lens import lens_findings
from pipeline.common.code_version import code_version
from pipeline.common.progress import Reporter
from pipeline.config import RunConfig
from pipeline.forward.events import Outcome
from pipeline.forward.place_files import read_places
from pipeline.image_tables import evidence_columns, track_columns
from pipeline.image_verdict import judge_images, judged_windows, least_residual
from pipeline.ingest.content_sample import content_sample
from pipeline.ingest.dataset_times import PICTURES
from pipeline.ingest.frames import DriveTask
from pipeline.leases import Guard
from pipeline.publish import DriveFacts, Manifest, RunFacts
from pipeline.refined_drive import Refined, StagedFrames, drive_lens, link_tracks, refine_staged
from pipeline.result_identity import result_identity
from pipeline.staged_drive import JoinedDrive, StagedDrive, join_staged, staged_frames, with_estimated_camera, with_lens

_UNTRACKED = (
    "no corners can be followed through the images (300 pixels at least): they neither refine nor judge this result"
)

# Chunks whose paths two cameras measured agree almost exactly. A chunk without such motions between them gives no
# warning while its overlaps differ by less than usual ones of the network: share of the chunk's path, and degrees.
_MEASURED_AGREE = (0.03, 0.5)
_NOTES_BESIDE = 20  # a result has at most so many notes about files beside the drive


@dataclass(frozen=True)
class Reconstruction:
    """The result of a drive: its manifest and URI. was_there: it existed before. trained: the weights are not
    random."""

    manifest: Manifest
    uri: str
    was_there: bool
    bad_frames: dict[int, str]
    verdict: Verdict | None
    trained: bool
    notes: tuple[str, ...] = ()


def staged_drive(task: DriveTask, outcome: Outcome, config: RunConfig, noted: Sequence[str] = ()) -> StagedDrive:
    """The data that the stages after the network need, with the numbers of frames in the drive. noted: notes on the
    whole input; those about the drive's folder and the folders beside it are kept."""
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
    """The facts about the input that a result contains: every field of the drive that DriveFacts has under the same
    name. notes: more notes."""
    drive = task.drive
    of_drive = {one.name: getattr(drive, one.name) for one in fields(DriveFacts) if hasattr(drive, one.name)}
    differs = {
        "frame_uris": drive.frame_uris(),
        "net_width": task.width,
        "net_height": task.height,
        "network_camera": task.network_camera,
        "sample": content_sample(drive),
        "notes": (*drive.notes, *notes),
    }
    return DriveFacts(**{**of_drive, **differs})


def notes_beside(noted: Sequence[str], uri: str) -> tuple[str, ...]:
    """The notes that name a place in a drive's folder or in the folder above it; at most 20."""
    above, name = storage.parent_and_name(uri)
    if name == PICTURES:  # image_02/data of KITTI raw, cam0/data of EuRoC: others lie beside image_02
        above = storage.parent_and_name(above)[0]
    above = storage.redacted(above).rstrip("/") + "/"
    return tuple(note for note in list(noted) if above in note)[:_NOTES_BESIDE] if len(above) > 1 else ()


def join_and_publish(
    staged: StagedDrive,
    config: RunConfig,
    output: str,
    reporter: Reporter,
    guard: Guard,
    publish_to: str | None = None,
) -> Reconstruction:
    """All stages after the network: refine windows, join chunks, judge, publish.

    output: contains the staged files. publish_to: the output for the result; None: `output`. guard: of the drive's
    lease, which the caller must hold. It is called before every write that readers can see; an error that it raises
    ends the publishing.
    """
    publish_to = publish_to or output
    identity = result_identity(staged.facts, staged.weights_sha256, config)
    with reporter.timed("refine"):
        staged, frames, refined = _refined(staged, config, output, reporter)
    facts = staged.facts
    with reporter.timed("join"):
        join = join_staged(staged, frames, config, refined)
        chunks, joined, positions = join.chunks, join.joined, join.positions
        verdict = _verdict_of_geometry(facts, frames, join, config, refined)
        tracks = evidence = None
        if refined is not None:
            verdict, pairs = judge_images(verdict, joined, join.witnessed, frames, refined, chunks.camera)
            tracks, evidence = track_columns(frames, refined, joined), evidence_columns(pairs, joined)
    for note in positions.notes:
        reporter.say(f"drive {facts.drive_id}: {note}")
    of_lens = () if frames.bent is None else (frames.bent.note,)
    of_images = refined.notes if refined else (_UNTRACKED,)
    notes = (*frames.masks.notes, *facts.notes, *positions.notes, *of_lens, *of_images)
    bad_frames = {str(frame): reason for frame, reason in sorted(chunks.bad_frames.items())}
    run = RunFacts(
        identity=identity,
        weights_sha256=staged.weights_sha256,
        config=asdict(config),
        code_version=code_version(),
        timings=dict(reporter.seconds),
        quality={**verdict.to_dict(), "bad_frames": bad_frames, "notes": list(notes), **join.rig_said(facts)},
        georeference=positions.georeference(join.instants.georeference, config.positions),
        metric=None if joined.metric is None else asdict(joined.metric),
        positions=positions.columns(join.instants.georeference),
        places=read_places(frames.folder, staged.kept),
        tracks=tracks,
        evidence=evidence,
    )

    def progress(done: int, total: int, points: int) -> None:
        reporter.advance("points", 1, total, "chunks")

    with reporter.timed("publish"):
        manifest = publish.publish_drive(
            publish_to,
            with_estimated_camera(facts, frames, refined),
            chunks,  # type: ignore[arg-type]  # has the methods that are used of a sequence
            joined,
            config.publish,
            run,
            progress,
            overwrite=True,
            guard=guard,
            masks=chunks.static,
            ego=frames.chunks().car_parts(facts.camera_count) if config.publish.with_points else (),
        )
    uri = storage.join(publish_to, facts.drive_id)
    return Reconstruction(manifest, uri, False, chunks.bad_frames, verdict, staged.trained, notes)


def _refined(
    staged: StagedDrive, config: RunConfig, output: str, reporter: Reporter
) -> tuple[StagedDrive, StagedFrames, Refined | None]:
    """The drive, with the lens that its tracks show if it has no calibration; its frames; and its windows adjusted to
    the corners in its images, None where no corners could be followed."""
    frames = staged_frames(staged, config, output)
    if not link_tracks(frames):
        return staged, frames, None
    found = drive_lens(frames) if config.refine else None
    if found is not None:
        lens = found.camera(*frames.pictures.source)
        staged = with_lens(staged, lens, config.camera.fov)
        frames = staged_frames(staged, config, output)
    refined = refine_staged(frames, config.refine, lambda done, of: reporter.advance("refine", 1, of, "windows"))
    return staged, frames, refined


def _verdict_of_geometry(
    facts: DriveFacts, frames: StagedFrames, join: JoinedDrive, config: RunConfig, refined: Refined | None
) -> Verdict:
    """The verdict from joining, adjusted windows and straight lines, without the images."""
    is_calibrated = facts.camera is not None and facts.camera.origin == "calibration"
    instants = range(facts.frame_count // facts.camera_count)
    of_lens = lens_findings(frames.chunks().line_evidence(), instants, is_calibrated)
    quality = judged_windows(config.backend.quality, refined)
    least = _MEASURED_AGREE if join.is_measured else (least_residual(refined), 0.0)
    verdict = assess_quality(join.instants, quality, of_lens, *least)
    return verdict if facts.rig is None else verdict.in_frames(len(facts.rig))

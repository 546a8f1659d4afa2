"""A drive whose chunks are all staged, with the data that are needed to join and publish it without its input."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.backend import JoinResult, join_chunks
from pipeline.backend.rig import RigChunks, frames_of_rig, measure_rig
from pipeline.backend.stereo_scale import StereoMotions
from pipeline.cameras.camera import Camera
from pipeline.cameras.known_camera import KnownCamera
from pipeline.cameras.static_parts import parts_said
from pipeline.config import RunConfig
from pipeline.errors import DriveError, PipelineError, StorageError
from pipeline.forward.camera_chunks import CameraChunks, ChunkMasks, StoredChunks, covered, static_parts
from pipeline.forward.loop_chunks import LoopChunk
from pipeline.forward.staging import STAGING_FOLDER, StagedChunks, attempt_uri, is_staged_file
from pipeline.georeference import DrivePositions, PositionsConfig, PositionsSource, find_positions
from pipeline.image_verdict import DriveChunks, WitnessedChunks
from pipeline.ingest.frame_masks import AUTO, FrameMasks, FrameShape
from pipeline.ingest.video import FRAME_MARK
from pipeline.leases import Guard
from pipeline.publish import DriveFacts
from pipeline.refine.stereo_files import read_motions
from pipeline.refine.tracks import LONG_SIDE
from pipeline.refined_chunks import RefinedChunks
from pipeline.refined_drive import Refined, StagedFrames
from pipeline.settings_file import settings_from_dict
from pipeline.storage import StoredFile
from pipeline.straightened import Bent, StraightChunks
from pipeline.tracked_drive import Pictures, tracks_uri

_MARKER = "staged.json"


@dataclass(frozen=True)
class StagedDrive:
    """facts: of the input; attempt: the one that staged chunk_count chunks, followed by the loop chunks; kept: numbers
    of the drive's frames that are in chunks (staged files count places in this list); weights_sha256: of the
    network."""

    facts: DriveFacts
    attempt: str
    chunk_count: int
    loops: tuple[LoopChunk, ...]
    kept: tuple[int, ...]
    weights_sha256: str
    trained: bool
    outlines: tuple[tuple[int, int], ...] = ()
    """First and last place of each chunk; empty in files of older versions."""


@dataclass(frozen=True)
class _NotedFacts(DriveFacts):
    """DriveFacts with the concrete types that reading needs."""

    frame_uris: tuple[str, ...]
    timestamps_ns: tuple[int, ...] | None
    listing: tuple[StoredFile, ...]


@dataclass(frozen=True)
class _NotedDrive(StagedDrive):
    facts: _NotedFacts


@dataclass(frozen=True)
class _Noted:
    staged: _NotedDrive
    config: Mapping[str, object]


def write_staged_drive(output: str, staged: StagedDrive, config: RunConfig) -> None:
    """Write a description beside the staged chunks, once all of them are staged."""
    facts = staged.facts
    plain = replace(facts, frame_uris=list(facts.frame_uris), listing=list(facts.listing))
    values = {"staged": asdict(replace(staged, facts=plain)), "config": asdict(config)}
    text = json.dumps({**values, "checksum": _checksum(values)}, indent=1)
    storage.write_bytes_atomically(_marker_uri(output, staged.facts.drive_id), text.encode())


def read_staged_drive(output: str, drive_id: str) -> tuple[StagedDrive, RunConfig]:
    """The staged drive and the settings with which it was made.

    Raises DriveError where its predictions were not kept or the description cannot be read.
    """
    uri = _marker_uri(output, storage.check_drive_id(drive_id))
    try:
        data = storage.read_small(uri, storage.LISTED_BYTES)
        noted = storage.parse_record(data, _Noted, "it")
        values = json.loads(data)
        checksum = values.pop("checksum", None)  # files of older versions have none
        if checksum is not None and checksum != _checksum(values):
            raise ValueError("it is not as it was written, its checksum differs")
        facts = DriveFacts(**vars(noted.staged.facts))
        staged = StagedDrive(**{**vars(noted.staged), "facts": facts})
        if staged.facts.drive_id != drive_id:
            raise ValueError(f"it is of drive {staged.facts.drive_id[:140]!r}")
        _check(staged)
        return staged, settings_from_dict({"refine": False, **noted.config})  # older versions had no refinement
    except storage.NotFoundError as error:
        raise DriveError(
            f"drive {drive_id}: its staged predictions are not in {storage.redacted(output)}; reconstruct it "
            "with --keep-predictions first (and --overwrite where its result is there already)"
        ) from error
    except StorageError:
        raise
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DriveError(
            f"drive {drive_id}: {storage.redacted(uri)} is damaged ({error}); reconstruct the drive again "
            "with --keep-predictions --overwrite"
        ) from error


def _check(staged: StagedDrive) -> None:
    """Raises ValueError where numbers do not fit together."""
    kept, frames = staged.kept, staged.facts.frame_count
    if not kept or kept[0] < 0 or kept[-1] >= frames or any(a >= b for a, b in pairwise(kept)):
        raise ValueError(f"field kept: expected rising frame numbers below {frames}")
    if not 1 <= staged.chunk_count <= len(kept):
        raise ValueError(f"field chunk_count: expected 1 to {len(kept)}, got {staged.chunk_count}")
    outlines = staged.outlines
    in_drive = all(0 <= first <= last < len(kept) for first, last in outlines)
    if len(outlines) not in (0, staged.chunk_count) or not in_drive or sorted(outlines) != list(outlines):
        raise ValueError(
            f"field outlines: expected the places of {staged.chunk_count} chunks below {len(kept)}, in order"
        )
    for number, loop in enumerate(staged.loops):
        if loop.frames and not (min(loop.frames) >= 0 and max(loop.frames) < frames):
            raise ValueError(f"field loops.{number}.frames: expected frame numbers below {frames}")


@dataclass(frozen=True, eq=False)
class JoinedDrive:
    """chunks: with the one camera of the drive and without masked pixels; joined: their trajectory, of all frames;
    positions: those that were used; witnessed: what the chunks recorded for the evidence of the images; instants: the
    trajectory of a rig's reference, a pose an instant (of one camera the same as joined); rig_from_camera (C, 4, 4): of
    a rig, in the trajectory's units; is_measured: whether two cameras measured the path of the chunks."""

    chunks: DriveChunks
    joined: JoinResult
    positions: DrivePositions
    witnessed: WitnessedChunks
    instants: JoinResult
    rig_from_camera: NDArray[np.float64] | None = None
    is_measured: bool = False

    def rig_said(self, facts: DriveFacts) -> dict[str, object]:
        """The cameras' poses on the car, for the manifest; empty for one camera."""
        if facts.rig is None or self.rig_from_camera is None:
            return {}
        rig, late_s = facts.rig, _late_s(facts)
        cameras = [
            {
                "camera": name,
                "known": given is not None and name not in rig.out_of_step,
                "rig_from_camera": pose[:3].tolist(),
                **({"late_s": late} if late else {}),
            }
            for name, given, pose, late in zip(
                rig.cameras, rig.rig_from_camera, self.rig_from_camera, late_s, strict=True
            )
        ]
        return {"rig": cameras}


def _late_s(facts: DriveFacts) -> list[float]:
    """Seconds by which each camera of a rig takes its pictures later than the reference."""
    assert facts.rig is not None
    if facts.timestamps_ns is None or not facts.rig.late:
        return [0.0] * len(facts.rig)
    step_s = float(np.median(np.diff(facts.timestamps_ns[:: facts.camera_count]))) / 1e9
    return [round(share * step_s, 6) for share in facts.rig.late]


def staged_frames(staged: StagedDrive, config: RunConfig, output: str) -> StagedFrames:
    """The drive's staged chunks and tracks, with its camera and masks. Raises CalibrationError for masks that cannot be
    read; StorageError."""
    facts = staged.facts
    folder = attempt_uri(output, facts.drive_id, staged.attempt)
    chunks: StoredChunks = StagedChunks(folder, staged.chunk_count, staged.kept)
    bent = _bent(facts)
    if bent is not None:
        chunks = StraightChunks(StagedChunks(folder, staged.chunk_count, staged.kept), bent)
    return StagedFrames(
        folder,
        tracks_uri(output, facts, staged.kept),
        staged.chunk_count,
        staged.kept,
        Pictures.of((facts.source_width, facts.source_height), (facts.net_width, facts.net_height), facts.camera),
        facts.network_camera,
        _masks(facts, config.masks, chunks),
        staged.outlines,
        config.backend.road,
        facts.rig,
        facts.camera is not None and facts.camera.origin == "exif",
        bent,
    )


def _bent(facts: DriveFacts) -> Bent | None:
    """A lens that tracks showed: what is staged of the drive was not rectified by it."""
    known = facts.camera
    view = known.view(facts.net_width, facts.net_height) if known is not None and known.origin == "estimated" else None
    return None if view is None else Bent(view, view.enlarged(LONG_SIDE))


def with_lens(staged: StagedDrive, lens: Camera, fov: float) -> StagedDrive:
    """The drive as if the lens that its tracks showed (`drive_lens`) had been known; its origin is "estimated". fov:
    the largest horizontal field of view of a rectified picture, degrees."""
    known, facts = KnownCamera(lens, "estimated", fov), staged.facts
    view = known.view(facts.net_width, facts.net_height)
    if view is None:
        return staged
    return replace(staged, facts=replace(facts, camera=known, network_camera=view.pinhole))


def with_estimated_camera(facts: DriveFacts, frames: StagedFrames, refined: Refined | None) -> DriveFacts:
    """The facts with the camera that refinement estimated, where it was only guessed before."""
    if not frames.guessed or facts.camera is None or refined is None or not refined.taken or refined.camera is None:
        return facts
    fx, fy, cx, cy = frames.pictures.grid.camera_to_source(refined.camera.matrix[None])[0].tolist()
    camera = replace(facts.camera.camera, fx=fx, fy=fy, cx=cx, cy=cy)
    known = replace(facts.camera, camera=camera, origin="estimated")
    return replace(facts, camera=known, network_camera=refined.camera)


def join_staged(
    staged: StagedDrive, frames: StagedFrames, config: RunConfig, refined: Refined | None = None
) -> JoinedDrive:
    """Join the staged chunks, or the refined windows where any improved.

    Raises AlignmentError, StorageError.
    """
    chunks: CameraChunks | RefinedChunks = frames.chunks()
    overlap, camera = config.overlap or 0, frames.camera
    adjusted: tuple[bool, ...] = ()
    metre_sigma: tuple[float, ...] | None = None
    deviations: list[NDArray[np.float64] | None] = []
    if refined is not None and refined.taken:
        chunks = RefinedChunks(frames, refined)
        overlap, camera = chunks.shared, refined.camera
        adjusted, metre_sigma = refined.accepted, refined.metre_sigma
        if staged.facts.rig is None:
            deviations = [chunks.pose_deviation(number) for number in range(len(chunks))]
    loops = frames.staged_chunks(len(staged.loops), first=staged.chunk_count)
    witnessed = WitnessedChunks(chunks, frames)
    positions = _positions(staged.facts, config)
    rig, count = staged.facts.rig, staged.facts.camera_count
    geometry = None if rig is None else measure_rig(witnessed, rig)
    motions = None if geometry is None else _motions(staged, frames)
    seen_loops = CameraChunks(loops, camera, frames.masks)
    instants = join_chunks(
        witnessed if geometry is None else RigChunks(witnessed, geometry),
        loop_chunks=seen_loops if geometry is None else RigChunks(seen_loops, geometry),
        loop_pairs=[(loop.first // count, loop.second // count) for loop in staged.loops],
        loop_similarities=[loop.similarity for loop in staged.loops],
        overlap=overlap if rig is None else max(overlap // count, 1),
        kept=staged.kept if rig is None else [frame // count for frame in staged.kept[::count]],
        config=config.backend,
        frame_time_s=positions.frame_time_s,
        fixes=positions.fixes,
        speed=positions.speed,
        camera_height_m=config.camera.height,
        clock_window_s=positions.window_s,
        lever=config.positions.lever_m,
        motions=motions,
        adjusted=adjusted,
        deviations=deviations,
        road_of=chunks.road if isinstance(chunks, RefinedChunks) and rig is None else None,
    )
    joined, rig_from_camera = (instants, None) if geometry is None else frames_of_rig(instants, geometry, metre_sigma)
    one_camera = chunks.with_one_camera(config.camera.square_pixels)
    used = positions.joined(joined.relative_because, joined.georeference)
    is_measured = motions is not None and len(motions.instant) > 0
    return JoinedDrive(one_camera, joined, used, witnessed, instants, rig_from_camera, is_measured)


def _motions(staged: StagedDrive, frames: StagedFrames) -> StereoMotions:
    """The motions of a rig in metres, where two of its cameras measured them."""
    instant, this_from_next = read_motions(frames.tracks)
    instants = np.asarray(staged.kept[:: staged.facts.camera_count], np.int64) // staged.facts.camera_count
    there = (instant >= 0) & (instant < len(instants) - 1)
    instant = instant[there]
    return StereoMotions(instants[instant], instants[instant + 1], this_from_next[there])


def facts_with_positions(facts: DriveFacts, config: PositionsConfig) -> DriveFacts:
    """The facts with the positions that are beside the drive now; unchanged where its input no longer exists. Raises
    DriveError where `config.file` does not exist."""
    try:
        source = find_positions(facts.source_uri, facts.frame_uris, facts.drive_id, config)
    except StorageError:
        if config.file is not None:
            raise
        return facts
    picture = {name: value for name, value in facts.picture.items() if name != "positions"}
    if source is None:
        return replace(facts, picture=picture, positions=None)
    return replace(facts, picture={**picture, "positions": source.identity(config)}, positions=source.noted())


def _positions(facts: DriveFacts, config: RunConfig) -> DrivePositions:
    """The drive's positions; empty, with a reason, where they cannot be used."""
    if facts.positions is None:
        return DrivePositions()
    source = PositionsSource.from_noted(facts.positions)
    if facts.rig is not None:
        step = facts.camera_count
        times = None if facts.timestamps_ns is None else facts.timestamps_ns[::step]
        facts = replace(facts, frame_uris=facts.frame_uris[::step], timestamps_ns=times, rig=None)
    numbers = None  # frame numbers in the source, which tables of positions may use
    if FRAME_MARK in facts.frame_uris[0]:
        numbers = [int(uri.rpartition(FRAME_MARK)[2]) for uri in facts.frame_uris]
    elif config.fps is None:
        first = config.start or 0
        numbers = [first + config.stride * place for place in range(facts.frame_count)]
    return DrivePositions.read(source, config.positions, facts.frame_uris, facts.timestamps_ns, numbers)


def _masks(facts: DriveFacts, asked: str | None, chunks: StoredChunks) -> ChunkMasks:
    """The pixels of the network's pictures that are used: those that the lens sees, without the masked ones."""
    views = facts.camera.views(facts.net_width, facts.net_height) if facts.camera else ()
    seen = tuple(view.seen() for view in views)
    if asked is None:
        return ChunkMasks(seen)
    if asked == AUTO:
        found = static_parts(chunks, facts.camera_count)
        used = [~covered(parts, (facts.net_height, facts.net_width)) for parts in found]
        if facts.rig is None:
            return ChunkMasks(seen, tuple(used), notes=(f"--masks auto leaves out {parts_said(found[0])}",))
        notes = [
            f"camera {camera}: --masks auto leaves out {parts_said(parts)}"
            for camera, parts in zip(facts.rig.cameras, found, strict=True)
        ]
        return ChunkMasks(seen, tuple(used), notes=tuple(notes))
    shape = FrameShape((facts.source_width, facts.source_height), (facts.net_width, facts.net_height), views)
    masks = FrameMasks(storage.absolute(asked), facts.drive_id, facts.frame_uris, shape)
    return ChunkMasks(seen, masks.static, None if masks.static else masks.of)


def has_staged_drive(output: str, drive_id: str) -> bool:
    """Whether predictions of the drive were kept."""
    return storage.exists(_marker_uri(output, drive_id))


def _checksum(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _marker_uri(output: str, drive_id: str) -> str:
    return storage.join(output, STAGING_FOLDER, drive_id, _MARKER)


def remove_staging(output: str, drive_id: str) -> None:
    """Remove all staged predictions of a drive, and the staging folder once it is empty; other files stay."""
    folder = storage.join(output, STAGING_FOLDER, storage.check_drive_id(drive_id))
    storage.remove_below(folder, [path for path in storage.list_below(folder) if is_staged_file(path)])
    if storage.is_local(folder):
        with contextlib.suppress(OSError):  # not empty: other drives have predictions there
            os.rmdir(storage.join(output, STAGING_FOLDER))


def clear_staging(output: str, drive_id: str, guard: Guard) -> None:
    """Remove the staged files of a failed try, unless another run has the drive now (guard raises), or they belong to
    an earlier result with kept predictions. Errors of the store are ignored."""
    with contextlib.suppress(PipelineError):
        guard()
        if not has_staged_drive(output, drive_id):
            remove_staging(output, drive_id)

"""A drive whose chunks are all staged, with what is needed to join and publish it again without its input."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace

from pipeline import storage
from pipeline.backend import JoinResult, join_chunks
from pipeline.cameras.camera import Camera
from pipeline.cameras.known_camera import KnownCamera
from pipeline.config import RunConfig
from pipeline.errors import DriveError, StorageError
from pipeline.forward.camera_chunks import CameraChunks, ChunkMasks, static_mask
from pipeline.forward.loop_chunks import LoopChunk
from pipeline.forward.staging import STAGING_FOLDER, StagedChunks, attempt_uri
from pipeline.ingest.frame_masks import AUTO, FrameMasks, FrameShape
from pipeline.publish import DriveFacts
from pipeline.settings_file import settings_from_dict
from pipeline.storage import StoredFile

_MARKER = "staged.json"


@dataclass(frozen=True)
class StagedDrive:
    """facts of the input; the attempt that staged all chunk_count chunks and the loop chunks behind them; kept: the
    drive's frames that are in chunks, by whose places the staged files count; the weights that made them."""

    facts: DriveFacts
    attempt: str
    chunk_count: int
    loops: tuple[LoopChunk, ...]
    kept: tuple[int, ...]
    weights_sha256: str
    trained: bool


def write_staged_drive(output: str, staged: StagedDrive, config: RunConfig) -> None:
    """Note beside the staged chunks what they are; written once all of them are there."""
    facts = staged.facts
    plain = replace(facts, frame_uris=list(facts.frame_uris), listing=list(facts.listing))
    values = {"staged": asdict(replace(staged, facts=plain)), "config": asdict(config)}
    text = json.dumps({**values, "checksum": _checksum(values)}, indent=1)
    storage.write_bytes_atomically(_marker_uri(output, staged.facts.drive_id), text.encode())


def read_staged_drive(output: str, drive_id: str) -> tuple[StagedDrive, RunConfig]:
    """The staged drive and the settings it was made with.

    Raises DriveError where its predictions were not kept or the note cannot be read.
    """
    uri = _marker_uri(output, storage.check_drive_id(drive_id))
    try:
        values = json.loads(storage.read_bytes(uri))
        checksum = values.pop("checksum", None)  # those staged before there was one have none
        if checksum is not None and checksum != _checksum(values):
            raise ValueError("it is not as it was written, its checksum differs")
        staged = values["staged"]
        facts = staged["facts"]
        if facts["drive_id"] != drive_id:
            raise ValueError(f"it is of drive {str(facts['drive_id'])[:140]!r}")
        loops = tuple(LoopChunk(**{**one, "frames": tuple(one["frames"])}) for one in staged["loops"])
        facts["listing"] = [StoredFile(**file) for file in facts["listing"]]
        if facts.get("camera") is not None:
            facts["camera"] = KnownCamera.from_dict(facts["camera"])
            facts["network_camera"] = Camera.from_dict(facts["network_camera"])
        return (
            StagedDrive(**{**staged, "facts": DriveFacts(**facts), "loops": loops, "kept": tuple(staged["kept"])}),
            settings_from_dict(values["config"]),
        )
    except storage.NotFoundError as error:
        raise DriveError(
            f"drive {drive_id}: its staged predictions are not in {storage.redacted(output)}; reconstruct it "
            "with --keep-predictions first (and --overwrite where its result is there already)"
        ) from error
    except StorageError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DriveError(
            f"drive {drive_id}: {storage.redacted(uri)} is damaged ({error}); reconstruct the drive again "
            "with --keep-predictions --overwrite"
        ) from error


def join_staged(staged: StagedDrive, config: RunConfig, output: str) -> tuple[CameraChunks, JoinResult]:
    """The staged chunks, seen through the one camera of the drive and without what is masked, and the trajectory that
    they make together. Raises AlignmentError, CalibrationError for masks that cannot be read, StorageError."""
    folder = attempt_uri(output, staged.facts.drive_id, staged.attempt)
    facts = staged.facts
    raw = StagedChunks(folder, staged.chunk_count, staged.kept)
    masks = _masks(facts, config.masks, raw)
    chunks = CameraChunks(raw, facts.network_camera, masks)
    loops = StagedChunks(folder, len(staged.loops), staged.kept, first=staged.chunk_count)
    joined = join_chunks(
        chunks,
        loop_chunks=CameraChunks(loops, facts.network_camera, masks),
        loop_pairs=[(loop.first, loop.second) for loop in staged.loops],
        loop_similarities=[loop.similarity for loop in staged.loops],
        overlap=config.overlap or 0,
        kept=staged.kept,
        config=config.backend,
    )
    return chunks.with_one_camera(config.camera.square_pixels), joined


def _masks(facts: DriveFacts, asked: str | None, chunks: StagedChunks) -> ChunkMasks:
    """What of the network's pictures counts: what the lens saw, less what the user's masks or `auto` leave out."""
    view = facts.camera.view(facts.net_width, facts.net_height) if facts.camera else None
    seen = None if view is None else view.seen()
    if asked is None:
        return ChunkMasks(seen)
    if asked == AUTO:
        return ChunkMasks(seen, static_mask(chunks))
    shape = FrameShape((facts.source_width, facts.source_height), (facts.net_width, facts.net_height), view)
    masks = FrameMasks(storage.absolute(asked), facts.drive_id, facts.frame_uris, shape)
    return ChunkMasks(seen, masks.one, masks.of if masks.one is None else None)


def has_staged_drive(output: str, drive_id: str) -> bool:
    """Whether predictions of the drive were kept."""
    return storage.exists(_marker_uri(output, drive_id))


def _checksum(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _marker_uri(output: str, drive_id: str) -> str:
    return storage.join(output, STAGING_FOLDER, drive_id, _MARKER)

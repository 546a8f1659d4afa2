"""A drive whose chunks are all staged, with what is needed to join and publish it again without its input."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace

from pipeline import storage
from pipeline.backend import JoinResult, join_chunks
from pipeline.config import RunConfig
from pipeline.errors import DriveError, StorageError
from pipeline.forward.loop_chunks import LoopChunk
from pipeline.forward.staging import STAGING_FOLDER, StagedChunks, attempt_uri
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


def join_staged(staged: StagedDrive, config: RunConfig, output: str) -> tuple[StagedChunks, JoinResult]:
    """The staged chunks, and the trajectory that they make together. Raises AlignmentError, StorageError."""
    folder = attempt_uri(output, staged.facts.drive_id, staged.attempt)
    chunks = StagedChunks(folder, staged.chunk_count, staged.kept)
    joined = join_chunks(
        chunks,
        loop_chunks=StagedChunks(folder, len(staged.loops), staged.kept, first=staged.chunk_count),
        loop_pairs=[(loop.first, loop.second) for loop in staged.loops],
        loop_similarities=[loop.similarity for loop in staged.loops],
        overlap=config.overlap or 0,
        kept=staged.kept,
        config=config.backend,
    )
    return chunks, joined


def has_staged_drive(output: str, drive_id: str) -> bool:
    """Whether predictions of the drive were kept."""
    return storage.exists(_marker_uri(output, drive_id))


def _checksum(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _marker_uri(output: str, drive_id: str) -> str:
    return storage.join(output, STAGING_FOLDER, drive_id, _MARKER)

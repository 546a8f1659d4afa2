"""What has to be done for each drive and what it costs, from listings and headers.

A plan holds numbers about a drive, not the names of its frames, so ten thousand drives of five thousand frames fit in
the driver.
"""

from __future__ import annotations

import contextlib
import fnmatch
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from models.config import STEM_CELL, ModelConfig
from pipeline import publish, storage
from pipeline.config import RunConfig
from pipeline.errors import PipelineError
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.fleet.records.failure_records import Failures
from pipeline.ingest.chunks import plan_chunks
from pipeline.ingest.drives import Drive
from pipeline.ingest.preprocess import target_size
from pipeline.prepare import instants_of_chunk, read_drive
from pipeline.result_identity import decide, result_identity
from pipeline.storage.retry import is_retryable, patiently
from pipeline.tracked_drive import staged_track_bytes

Todo = Literal["do", "published", "failed", "quarantined", "bad", "trouble"]
"""do: has to be done; published: its result exists; failed, quarantined: in an earlier run, and nothing changed; bad:
cannot be read; trouble: the store does not answer."""

TAKEN = "output"
"""Stage of a drive whose name in the output is taken by another drive: every run reports it again."""

PUBLISHED_ALREADY = "published already"


@dataclass(frozen=True)
class Costs:
    """The estimated costs of a drive, from its number of frames and their size at the network.

    state_bytes: chunk states of all chunks, which wait between two memories; state_bytes_chunk: of one chunk.
    staging_bytes: staged predictions, tracks and their pictures. output_bytes: upper bound, with a point for every
    pixel. requests: to the stores.
    """

    frames: int
    chunks: int
    width: int
    height: int
    input_bytes: int
    state_bytes: int
    state_bytes_chunk: int
    staging_bytes: int
    output_bytes: int
    requests: int


@dataclass(frozen=True)
class PlannedDrive:
    """A drive, what has to be done for it, and why. replaces: an existing result will be replaced. settled: False where
    the run that published it was killed before its files had their documented names."""

    ref: DriveRef
    todo: Todo
    reason: str | None = None
    stage: str | None = None
    identity: str | None = None
    costs: Costs | None = None
    replaces: bool = False
    settled: bool = True
    notes: tuple[str, ...] = ()  # parts of its input that are not used, and oddities of the input

    @property
    def drive_id(self) -> str:
        """Name of the drive."""
        return self.ref.drive_id

    @property
    def why_left(self) -> str:
        """The reason in the ledger of a drive that this run does not do."""
        if self.todo == "published":
            return PUBLISHED_ALREADY
        return f"{self.todo} before, and nothing changed (--retry-failed tries it again): {self.reason}"

    @property
    def frames(self) -> int:
        """Frames after stride, fps, start and end; 0 where it could not be read."""
        return self.costs.frames if self.costs else 0


def drive_config(config: RunConfig, ref: DriveRef) -> RunConfig:
    """The settings for one drive of many: those of the run, changed by those of its reference."""
    return replace(
        config,
        input=ref.uri,
        drive_id=ref.drive_id,
        start=config.start if ref.start is None else ref.start,
        end=config.end if ref.end is None else ref.end,
        fps=config.fps if ref.fps is None else ref.fps,
        stride=config.stride if ref.fps is None else 1,
        positions=config.positions if ref.positions is None else replace(config.positions, file=ref.positions),
        camera=replace(
            config.camera,
            file=config.camera.file if ref.camera is None else ref.camera,
            views=config.camera.views if ref.view is None else ref.view,
        ),
        rig=config.rig if ref.rig is None else None if ref.rig == "none" else ref.rig,
    )


@dataclass(frozen=True)
class Planner:
    """Plans drives. config: resolved settings (`pipeline.prepare.resolve_settings`)."""

    config: RunConfig
    model: ModelConfig
    weights_sha256: str
    output: str
    failures: Failures
    find: Callable[[RunConfig], Drive] = read_drive

    def identity_of(self, drive: Drive, config: RunConfig) -> str:
        """The identity of a result of this drive."""
        return result_identity(drive, self.weights_sha256, config)

    def plan(self, ref: DriveRef) -> PlannedDrive:
        """Plan one drive. Errors of the drive or of a store are recorded in the plan, not raised."""
        try:
            return self._planned(ref)
        except publish.NameTakenError as error:
            return PlannedDrive(ref, "bad", str(error), TAKEN)
        except ValueError as error:  # PipelineError among them
            if isinstance(error, PipelineError) and is_retryable(error):
                return PlannedDrive(ref, "trouble", str(error), "find")
            return self._cannot_be_read(ref, str(error))

    def _planned(self, ref: DriveRef) -> PlannedDrive:
        storage.check_drive_id(ref.drive_id)
        config = drive_config(self.config, ref)
        drive = patiently(lambda: self.find(config))
        identity = self.identity_of(drive, config)
        costs = estimate(drive, config, self.model)
        decision = patiently(lambda: decide(drive, self.weights_sha256, config, self.output, of_many=True))
        lost = decision.why if decision.existing.lost else None
        planned = PlannedDrive(
            ref, "do", lost, identity=identity, costs=costs, replaces=decision.replaces, notes=drive.notes
        )
        if decision.done:
            there = decision.existing.manifest
            settled = there is None or publish.is_settled(there)
            return replace(planned, todo="published", reason="its result is there", replaces=False, settled=settled)
        failure = patiently(lambda: self.failures.get(ref.drive_id))
        if self.config.retry_failed or failure is None:
            return planned
        if not failure.concerns(identity):
            return planned
        return replace(planned, todo=failure.state, reason=failure.reason, stage=failure.stage)

    def _cannot_be_read(self, ref: DriveRef, reason: str) -> PlannedDrive:
        known = False
        if ref.drive_id in self.failures.drive_ids and not self.config.retry_failed:
            with contextlib.suppress(PipelineError):  # a record that cannot be read is ignored
                failure = self.failures.get(ref.drive_id)
                known = failure is not None and failure.concerns(None) and failure.reason == reason
        return PlannedDrive(ref, "failed" if known else "bad", reason, "find")


def selected(
    refs: Iterable[DriveRef | RefusedDrive], config: RunConfig, failures: Failures
) -> Iterator[DriveRef | RefusedDrive]:
    """The drives that --only and --retry-failed select. Entries that discovery refused pass, so that every run reports
    them."""
    for ref in refs:
        words = (ref.drive_id, *(ref.tags if isinstance(ref, DriveRef) else ()))
        if config.only and not any(fnmatch.fnmatchcase(word, config.only) for word in words):
            continue
        if config.retry_failed and isinstance(ref, DriveRef) and ref.drive_id not in failures.drive_ids:
            continue
        yield ref


def estimate(drive: Drive, config: RunConfig, model: ModelConfig) -> Costs:
    """Estimate the costs of a drive."""
    cameras = drive.camera_count
    size, overlap = instants_of_chunk(config, cameras)
    height, width = target_size(drive.source_width, drive.source_height, model.image_size, model.patch_size)
    chunks = plan_chunks(drive.frame_count // cameras, size, overlap)
    frames_in_chunks = cameras * sum(len(chunk) for chunk in chunks)
    longest = cameras * max(len(chunk) for chunk in chunks)
    per_frame = state_bytes_per_frame(model, height, width, 2 if config.precision == "bfloat16" else 4)
    pixels = height * width
    images = drive.frame_count // drive.views_of_a_picture if drive.kind == "images" else 1 + drive.frame_count // 64
    scans = images if config.stops or config.turns else 0
    tables = math.ceil(drive.frame_count * pixels / config.publish.shard_rows) if config.publish.with_points else 0
    return Costs(
        frames=drive.frame_count,
        chunks=len(chunks),
        width=width,
        height=height,
        input_bytes=drive.listing.total_size,
        state_bytes=frames_in_chunks * per_frame,
        state_bytes_chunk=longest * per_frame,
        staging_bytes=frames_in_chunks * (pixels * (4 + 4 + 3) + 100)  # depth, confidence, colour
        + drive.frame_count * staged_track_bytes(drive.source_width, drive.source_height),
        output_bytes=drive.frame_count * (pixels * 27 if config.publish.with_points else 0) + 200 * drive.frame_count,
        # listing and headers twice (plan, run); frames; a PUT and two GETs for each staged chunk; tables; small objects
        requests=2 * (2 + math.ceil(len(drive.listing) / 1000)) + images + scans + 4 * len(chunks) + tables + 14,
    )


def state_bytes_per_frame(model: ModelConfig, height: int, width: int, item_bytes: int) -> int:
    """Bytes of a chunk's state for each frame, at the memory where it is largest, including the frame's pixels."""
    patches = (height // model.patch_size) * (width // model.patch_size)
    tokens = patches + model.special_tokens
    fine = (model.patch_size // STEM_CELL) ** 2 * model.motion_channels if model.dense_skip else 0
    # tokens and the output of the frame block beside them, layers that the depth head needs, fine features
    values = 2 * tokens * model.embed_dim + patches * (sum(model.dense_channels) + fine)
    return values * item_bytes + height * width * 3


def ranks_needed(costs: Costs, rank_bytes: int) -> int:
    """The number of ranks that can hold a drive's waiting states, each holding whole chunks."""
    held = rank_bytes // costs.state_bytes_chunk
    return math.ceil(costs.chunks / held) if held else costs.chunks + 1

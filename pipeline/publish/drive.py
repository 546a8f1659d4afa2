"""Writes one drive to its folder in the output: points, poses, chunks, loops, and the manifest last."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import schema, storage
from pipeline.common.chunk_prediction import SeenColours
from pipeline.common.secrets import without_credentials
from pipeline.errors import DriveError, StorageError
from pipeline.leases import Guard
from pipeline.publish import manifest as manifests
from pipeline.publish.config import PublishConfig
from pipeline.publish.drive_facts import DriveFacts, JoinLike, RunFacts
from pipeline.publish.existing_result import look_at
from pipeline.publish.files import WrittenFile
from pipeline.publish.manifest import MANIFEST, Counts, Manifest
from pipeline.publish.pixel_classes import PixelClasses
from pipeline.publish.points import ShardWriter, confidence_threshold, frame_points, median, sky_depth
from pipeline.publish.poses import path_length, source_intrinsics
from pipeline.publish.tables import (
    cameras_table,
    chunks_table,
    evidence_table,
    loops_table,
    places_table,
    poses_table,
    positions_table,
    tracks_table,
    write_table,
)
from pipeline.publish.trajectory import SeenChunk, SeenFrames, Trajectory, check_chunk
from pipeline.publish.versions import new_version_folder, remove_unnamed, settle
from pipeline.storage.retry import patiently

Progress = Callable[[int, int, int], None]
"""Called after each chunk with: chunks done, chunks in all, points written or waiting to be written."""

# The tables that every result has.
_POSES, _CHUNKS, _LOOPS, _CAMERAS = "poses.parquet", "chunks.parquet", "loops.parquet", "cameras.parquet"


def publish_drive(
    output: str,
    facts: DriveFacts,
    chunks: Sequence[SeenColours],
    joined: JoinLike,
    options: PublishConfig,
    run: RunFacts,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    guard: Guard = lambda: None,
    masks: Sequence[NDArray[np.bool_]] = (),
    ego: Sequence[NDArray[np.bool_]] = (),
) -> Manifest:
    """Write the drive to <output>/<drive_id>/ as defined in pipeline.schema, and return its manifest.

    Chunks are read once each, one after the other. A file gets its name when it is complete (renamed on a disk, one PUT
    elsewhere). The manifest is written last, after a check that all files are there.

    If a result exists, DriveError is raised without `overwrite`. With `overwrite`, the old result stays until the new
    one is complete (pipeline.publish.versions): a process that is killed at any time leaves the old result (or none, if
    there was none) or the new one. Files of earlier attempts are removed. Files that this program did not make stay;
    DriveError is raised where a result would replace one.

    guard: called before every change of the output that others see; it may raise. masks: none, one (h, w) for the whole
    drive, or one for each camera, False for the pixels of the network's pictures that were left out. ego: a mask (h, w)
    for each camera, True where its pictures show the car itself; empty where that is not known. Raises DriveError for
    input that does not fit together, StorageError.
    """
    started = time.perf_counter()
    drive_uri = storage.join(output, facts.drive_id)
    trajectory = Trajectory.read(joined, facts, len(chunks))
    folder_name, replaced = _room(output, facts.drive_id, overwrite=overwrite)
    target_uri = storage.join(drive_uri, folder_name) if folder_name else drive_uri
    with tempfile.TemporaryDirectory(prefix="publish-") as folder:
        scratch = Path(folder)
        files, seen, seen_chunks, points_of_chunk = _write_points(
            target_uri,
            facts,
            chunks,
            trajectory,
            options,
            scratch,
            progress,
            guard,
            ego,
            on_earth=getattr(joined, "georeference", None) is not None,
        )
        tables = _tables(facts, joined, run, trajectory, seen, seen_chunks, points_of_chunk, masks)
        for name, table in tables.items():
            guard()
            files.append(write_table(table, name, target_uri, scratch))
    if folder_name:
        files = [replace(file, path=f"{folder_name}/{file.path}") for file in files]
    counts = _counts(facts, joined, trajectory, tables[_POSES], points_of_chunk)
    timings = {**run.timings, "publish": time.perf_counter() - started}
    manifest = _manifest(facts, run, counts, timings, files)
    guard()
    _check_arrived(drive_uri, manifest)
    patiently(lambda: storage.write_bytes_atomically(storage.join(drive_uri, MANIFEST), manifest.to_bytes()))
    return settle(output, facts.drive_id, guard, replaced) if folder_name else manifest


def _tables(
    facts: DriveFacts,
    joined: JoinLike,
    run: RunFacts,
    trajectory: Trajectory,
    seen: SeenFrames,
    seen_chunks: Sequence[SeenChunk],
    points_of_chunk: NDArray[np.int64],
    masks: Sequence[NDArray[np.bool_]],
) -> dict[str, pa.Table]:
    """File name -> table: the tables of every result, and those for which the run has values."""
    name, place = facts.drive_id, getattr(joined, "georeference", None)
    chunks = chunks_table(
        name,
        seen_chunks,
        joined.world_from_chunk,
        joined.edges,
        points_of_chunk,
        run.quality,
        getattr(joined, "joint_errors", None),
        getattr(joined, "variance_inflation", 1.0),
    )
    tables: dict[str, pa.Table] = {
        _POSES: poses_table(facts, trajectory, seen, place),
        _CHUNKS: chunks,
        _LOOPS: loops_table(name, joined.loops),
        _CAMERAS: cameras_table(facts, seen, masks),
    }
    if run.positions is not None:
        tables["positions.parquet"] = positions_table(name, run.positions, on_earth=place is not None)
    if run.places is not None:
        tables["places.parquet"] = places_table(name, *run.places)
    if run.tracks is not None:
        tables["tracks.parquet"] = tracks_table(name, run.tracks, on_earth=place is not None)
    if run.evidence is not None:
        tables["evidence.parquet"] = evidence_table(name, run.evidence)
    return tables


def _counts(
    facts: DriveFacts, joined: JoinLike, trajectory: Trajectory, poses: pa.Table, points_of_chunk: NDArray[np.int64]
) -> Counts:
    status = poses["status"].to_pylist()
    positions = np.stack([poses[axis].to_numpy() for axis in "xyz"], -1)
    return Counts(
        frames=facts.frame_count,
        frames_ok=status.count(schema.OK),
        frames_filled=status.count(schema.FILLED),
        frames_missing=status.count(schema.MISSING),
        chunks=len(points_of_chunk),
        loops=len(joined.loops),
        loops_accepted=sum(bool(loop.accepted) for loop in joined.loops),
        points=int(points_of_chunk.sum()),
        path_length=path_length(positions[:: facts.camera_count]),
        frames_still=int((trajectory.owner < 0).sum()),
    )


def _manifest(
    facts: DriveFacts, run: RunFacts, counts: Counts, timings: dict[str, float], files: Sequence[WrittenFile]
) -> Manifest:
    return Manifest(
        schema_version=schema.SCHEMA_VERSION,
        drive_id=facts.drive_id,
        identity=run.identity,
        published_at=manifests.now(),
        input=manifests.input_listing(facts.source_uri, facts.listing, facts.sample),
        weights_sha256=run.weights_sha256,
        config=manifests.plain_object(run.config),
        code_version=run.code_version,
        counts=counts,
        timings=timings,
        quality=manifests.plain_object(run.quality),
        files=tuple(files),
        georeference=None if run.georeference is None else manifests.plain_object(run.georeference),
        metric=None if run.metric is None else manifests.plain_object(run.metric),
    )


def _room(output: str, drive_id: str, *, overwrite: bool) -> tuple[str | None, frozenset[str]]:
    """The folder for a new result, and the paths of the files that it replaces.

    None: the drive's own folder, from which unfinished files are removed. If a result exists: the name of a new folder
    below the drive's; without `overwrite`, DriveError.
    """
    drive_uri = storage.join(output, storage.check_drive_id(drive_id))
    existing = look_at(output, drive_id)
    if existing.is_there:
        if overwrite:
            files = existing.manifest.files if existing.manifest else ()
            return new_version_folder(), frozenset(file.path for file in files)
        raise DriveError(
            f"drive {drive_id} is published in {without_credentials(output)} already; --overwrite makes it again"
        )
    remove_unnamed(drive_uri, set())
    return None, frozenset()


def _check_arrived(drive_uri: str, manifest: Manifest) -> None:
    """Raises StorageError where a written file is gone: other files may be gone too, and a manifest would name files
    that do not exist."""
    there = storage.list_below(drive_uri)
    for file in manifest.files:
        if there.get(file.path) != file.size:
            raise StorageError(
                f"drive {manifest.drive_id}: {file.path} is not there any more after it was written to "
                f"{storage.redacted(drive_uri)}: was the folder moved or cleared?"
            )


def _write_points(
    drive_uri: str,
    facts: DriveFacts,
    chunks: Sequence[SeenColours],
    trajectory: Trajectory,
    options: PublishConfig,
    scratch: Path,
    progress: Progress | None,
    guard: Guard,
    ego: Sequence[NDArray[np.bool_]],
    *,
    on_earth: bool,
) -> tuple[list[WrittenFile], SeenFrames, list[SeenChunk], NDArray[np.int64]]:
    """Go through the chunks once: write the points of the frames that they own, and collect the data for the rows of
    poses and chunks."""
    seen = SeenFrames.none(facts.frame_count)
    seen_chunks: list[SeenChunk] = []
    points = 0
    with ShardWriter(drive_uri, len(chunks), options, scratch, on_earth=on_earth) as shards:
        for number in range(len(chunks)):
            guard()
            chunk = chunks[number]
            own = check_chunk(chunk, number, facts, trajectory.owner)
            index = np.asarray(chunk.frame_index, np.int64)
            seen_chunks.append(SeenChunk(range(int(index.min()), int(index.max()) + 1), len(index), len(own)))
            _note_frames(chunk, number, own, facts, seen)
            good = own[np.asarray(chunk.ok, bool)[own]]
            if options.with_points and len(good):
                share = options.confidence_share
                threshold = confidence_threshold(chunk.confidence[good], chunk.depth[good], share)
                intrinsics = np.broadcast_to(chunk.intrinsics, (len(index), 3, 3))
                beyond = sky_depth(chunk.depth[good], chunk.confidence[good], options.far)
                kinds = PixelClasses(chunk, trajectory, ego)
                for place in good:
                    frame = int(index[place])
                    block = frame_points(
                        chunk.depth[place],
                        chunk.confidence[place],
                        chunk.rgb[place],
                        intrinsics[place],
                        trajectory.world_from_camera[frame],
                        float(trajectory.depth_scale[frame]),
                        threshold,
                        frame,
                        number,
                        beyond,
                        kinds.of(int(place)),
                    )
                    shards.append(block)
                    points += len(block)
            del chunk  # before the next one is read, so that one chunk is in memory at a time
            if progress is not None:
                progress(number + 1, len(chunks), points)
    return shards.files, seen, seen_chunks, shards.points_of_chunk


def _note_frames(chunk: SeenColours, number: int, own: NDArray[np.int64], facts: DriveFacts, seen: SeenFrames) -> None:
    index = np.asarray(chunk.frame_index, np.int64)
    intrinsics = np.broadcast_to(chunk.intrinsics, (len(index), 3, 3))
    source, net = (facts.source_width, facts.source_height), (facts.net_width, facts.net_height)
    for place in own:
        frame = index[place]
        seen.ok[frame] = bool(chunk.ok[place])
        seen.chunk_index[frame] = number
        if facts.camera is None:
            seen.intrinsics[frame] = source_intrinsics(intrinsics[place], source, net)
        else:
            seen.intrinsics[frame] = facts.camera.of(int(frame)).intrinsics
        confidence = chunk.confidence[place]
        seen.confidence[frame] = median(confidence[np.isfinite(confidence)])

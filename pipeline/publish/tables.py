"""Makes the tables of a drive as Arrow tables of pipeline.schema, and writes them as Parquet files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pipeline import schema, storage
from pipeline.common.geodesy import geodetic_from_enu
from pipeline.common.secrets import without_credentials
from pipeline.publish.drive_facts import (
    DriveFacts,
    EdgeLike,
    GeoreferenceLike,
    JointErrorsLike,
    LoopLike,
    SimilarityLike,
)
from pipeline.publish.files import WrittenFile, publish_file
from pipeline.publish.poses import fill_poses, quaternion_from_rotation
from pipeline.publish.trajectory import SeenChunk, SeenFrames, Trajectory


def poses_table(
    facts: DriveFacts, trajectory: Trajectory, seen: SeenFrames, place: GeoreferenceLike | None = None
) -> pa.Table:
    """schema.POSES: one row for each of the drive's N frames; with `place` (the drive's place on Earth),
    POSES_ON_EARTH.

    A frame that is in no chunk (the car stands) has the pose of the last frame before it that is in a chunk. A frame
    whose image is bad has a pose between those of its neighbours. Intrinsics and chunk are those of the nearest seen
    frame. Where no frame was seen, all poses are missing.
    """
    count = facts.frame_count
    times = None if facts.timestamps_ns is None else np.asarray(facts.timestamps_ns, np.int64)
    poses, nearest = _poses_of_frames(facts.camera_count, trajectory, seen, times)
    there = nearest >= 0
    status = np.where(seen.ok, schema.OK, np.where(there, schema.FILLED, schema.MISSING))
    quaternions = np.full((count, 4), np.nan)
    quaternions[there] = quaternion_from_rotation(poses[there, :3, :3])
    columns: dict[str, object] = {
        "drive_id": [facts.drive_id] * count,
        "frame_index": np.arange(count),
        "timestamp_ns": times if times is not None else pa.nulls(count, pa.int64()),
        "uri": [without_credentials(uri) for uri in facts.frame_uris],
        "chunk_index": _or_null(seen.chunk_index[nearest], there),
        **_pose_columns(poses[:, :3, 3], quaternions, there),
        **{name: _or_null(seen.intrinsics[nearest, i], there) for i, name in enumerate(("fx", "fy", "cx", "cy"))},
        **facts.sizes(count),
        "confidence": _or_null(seen.confidence, seen.ok & np.isfinite(seen.confidence)),
        "status": status.tolist(),
    }
    kinds = schema.POSES if place is None else schema.on_earth(schema.POSES_ON_EARTH)
    if facts.rig is not None:
        columns["camera"] = [facts.rig.cameras[frame % facts.camera_count] for frame in range(count)]
        kinds = kinds.append(schema.CAMERA)
    if place is None:
        return _table(kinds, columns)
    on_earth = geodetic_from_enu(np.where(there[:, None], poses[:, :3, 3], 0.0), place.origin)
    for name, values in zip(("latitude", "longitude", "altitude"), on_earth, strict=True):
        columns[name] = _or_null(values, there)
    joined = np.flatnonzero(trajectory.owner >= 0)
    for axis, name in enumerate(("east", "north", "up")):
        spread = np.interp(np.arange(count), joined, np.asarray(place.position_deviation_m)[:, axis])
        columns[f"deviation_{name}"] = _or_null(spread, there)
    return _table(kinds, columns)


def _poses_of_frames(
    cameras: int, trajectory: Trajectory, seen: SeenFrames, times: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Poses (N, 4, 4), and for each frame the nearest seen frame of the same camera (N,), -1 where there is none.

    Where one of several cameras saw nothing, its pose follows from those of the others."""
    count = len(trajectory.owner)
    poses, nearest = np.full((count, 4, 4), np.nan), np.full(count, -1, np.int64)
    for camera in range(cameras):
        mine = np.arange(camera, count, cameras)
        like = np.maximum.accumulate(np.where(trajectory.owner[mine] >= 0, np.arange(len(mine)), 0))
        own = trajectory.world_from_camera[mine[like]]
        filled, near = fill_poses(own, seen.ok[mine[like]], None if times is None else times[mine])
        if cameras > 1:
            filled = np.where(np.isfinite(own).all((1, 2), keepdims=True) & (near >= 0)[:, None, None], own, filled)
        poses[mine] = filled
        nearest[mine] = np.where(near >= 0, mine[like[near]], -1)
    return poses, nearest


def positions_table(drive_id: str, columns: Mapping[str, NDArray[np.generic]], *, on_earth: bool) -> pa.Table:
    """schema.POSITIONS: one row for each fix; NaN in `columns` is null."""
    count = len(columns["time_s"])
    values: dict[str, object] = {"drive_id": [drive_id] * count, "fix_index": np.arange(count)}
    for name, column in columns.items():
        values[name] = column if column.dtype == bool else _or_null(column, np.isfinite(column))
    return _table(schema.on_earth(schema.POSITIONS) if on_earth else schema.POSITIONS, values)


def places_table(drive_id: str, frames: NDArray[np.int64], descriptors: NDArray[np.float16]) -> pa.Table:
    """schema.PLACES: one row a frame (n,) with its descriptor (n, D)."""
    starts = np.arange(0, descriptors.size + 1, max(descriptors.shape[1], 1), dtype=np.int32)[: len(frames) + 1]
    column = pa.ListArray.from_arrays(pa.array(starts), pa.array(np.ascontiguousarray(descriptors).reshape(-1)))
    values = {
        "drive_id": [drive_id] * len(frames),
        "place_index": np.arange(len(frames)),
        "frame_index": frames,
        "descriptor": column,
    }
    return _table(schema.PLACES, values)


def tracks_table(drive_id: str, columns: Mapping[str, NDArray[np.generic]], *, on_earth: bool) -> pa.Table:
    """schema.TRACKS: one row an observation."""
    count = len(columns["point_index"])
    values: dict[str, object] = {"drive_id": [drive_id] * count, "observation_index": np.arange(count), **columns}
    return _table(schema.on_earth(schema.TRACKS) if on_earth else schema.TRACKS, values)


def evidence_table(drive_id: str, columns: Mapping[str, NDArray[np.generic]]) -> pa.Table:
    """schema.EVIDENCE: one row a pair of frames; NaN in `columns` is null."""
    count = len(columns["frame_index"])
    values: dict[str, object] = {"drive_id": [drive_id] * count, "evidence_index": np.arange(count)}
    for name, column in columns.items():
        values[name] = column if column.dtype.kind != "f" else _or_null(column, np.isfinite(column))
    return _table(schema.EVIDENCE, values)


def chunks_table(
    drive_id: str,
    chunks: Sequence[SeenChunk],
    world_from_chunk: Sequence[SimilarityLike],
    edges: Sequence[EdgeLike],
    points_of_chunk: NDArray[np.int64],
    quality: Mapping[str, object],
    steps: JointErrorsLike | None = None,
    inflation: float = 1.0,
) -> pa.Table:
    """schema.CHUNKS: one row for each chunk.

    The figures of the overlap are those of the edge to the chunk before. The figures of the verdict come from
    quality["chunks"], where the run was judged. steps: covariances of the steps between chunks, which are multiplied by
    `inflation`; they are not published where an overlap determines nothing.
    """
    count = len(chunks)
    by_chunk = quality.get("chunks")
    judged = {one["chunk"]: one for one in by_chunk} if isinstance(by_chunk, Sequence) else {}
    figures = [judged.get(number, {}) for number in range(count)]
    edge_before = {edge.second: edge for edge in edges if edge.second == edge.first + 1}
    overlaps = [edge_before.get(number) for number in range(count)]
    rotations = np.array([one.rotation for one in world_from_chunk], np.float64).reshape(count, 3, 3)
    positions = np.array([one.translation for one in world_from_chunk], np.float64).reshape(count, 3)
    columns: dict[str, object] = {
        "drive_id": [drive_id] * count,
        "chunk_index": np.arange(count),
        "frame_start": [chunk.frames.start for chunk in chunks],
        "frame_stop": [chunk.frames.stop for chunk in chunks],
        "frames": [chunk.frame_count for chunk in chunks],
        "frames_owned": [chunk.owned_count for chunk in chunks],
        "scale": [float(one.scale) for one in world_from_chunk],
        **_pose_columns(positions, quaternion_from_rotation(rotations), np.ones(count, bool)),
        "overlap_residual": [None if edge is None else _finite(edge.residual) for edge in overlaps],
        "overlap_inliers": [None if edge is None else _finite(edge.inliers) for edge in overlaps],
        **{
            column: [one.get(name) for one in figures]
            for column, name in (
                ("noise", "noise"),
                ("depth_disagreement", "log_scale"),
                ("scale_jump", "scale_jump"),
                ("verdict", "level"),
            )
        },
        "points": points_of_chunk,
        "step_covariance": _matrices(None if steps is None else steps.covariance * inflation, overlaps),
        "step_with_next": _matrices(None if steps is None else steps.with_next * inflation, overlaps),
    }
    return _table(schema.CHUNKS, columns)


def _matrices(values: NDArray[np.floating] | None, overlaps: Sequence[EdgeLike | None]) -> pa.Array:
    """A column of matrices (n - 1, 7, 7), row by row, for the overlaps of n chunks with the chunk before: null where a
    value is not finite, and where an overlap is missing or determined nothing."""
    rows: list[list[float] | None] = [None] * len(overlaps)
    for number, edge in enumerate(overlaps):
        if values is None or edge is None or len(values) != len(overlaps) - 1 or getattr(edge, "bridged", False):
            continue
        one = values[number - 1]
        if np.isfinite(one).all() and np.isfinite(getattr(edge, "covariance", 0.0)).all():
            rows[number] = one.ravel().tolist()
    return pa.array(rows, pa.list_(pa.float64()))


def loops_table(drive_id: str, loops: Sequence[LoopLike]) -> pa.Table:
    """schema.LOOPS: one row for each candidate, in the order given; no rows where there are none."""
    columns: dict[str, object] = {
        "drive_id": [drive_id] * len(loops),
        "loop_index": list(range(len(loops))),
        "first_start": [loop.first.start for loop in loops],
        "first_stop": [loop.first.stop for loop in loops],
        "second_start": [loop.second.start for loop in loops],
        "second_stop": [loop.second.stop for loop in loops],
        "similarity": [_finite(loop.similarity) for loop in loops],
        "residual": [_finite(loop.residual) for loop in loops],
        "accepted": [bool(loop.accepted) for loop in loops],
        "reason": [None if loop.accepted else loop.reason for loop in loops],
    }
    return _table(schema.LOOPS, columns)


def cameras_table(facts: DriveFacts, seen: SeenFrames, masks: Sequence[NDArray[np.bool_]] = ()) -> pa.Table:
    """schema.CAMERAS: the drive's cameras. They have one lens in common, or each has its own, and their pictures were
    rectified to one pinhole; where the lens is not known, the median of the predictions for good frames. masks: none,
    one (h, w) for all cameras, or one for each, False for pixels that were left out of every frame."""
    count = facts.camera_count
    pictures: list[bytes | None] = [_png(one) for one in masks] or [None]
    net = facts.net_width, facts.net_height
    if facts.camera is not None and facts.network_camera is not None:
        known = facts.camera
        lenses = known.rig or (known.camera,) * count
        origin = known.origin
        model, params = [one.model for one in lenses], [list(one.params) for one in lenses]
        numbers: Sequence[Sequence[float | None]] = [one.intrinsics for one in lenses]
        of_view: Sequence[float | None] = facts.network_camera.intrinsics
    else:
        model, params, origin = ["pinhole"] * count, [[]] * count, "estimated"
        numbers, of_view = [[None] * 4] * count, [None] * 4
        if seen.ok.any():
            fx, fy, cx, cy = np.median(seen.intrinsics[seen.ok], axis=0).tolist()
            scale = max(net[0] / facts.source_width, net[1] / facts.source_height)
            left, top = ((scale * facts.source_width - net[0]) / 2, (scale * facts.source_height - net[1]) / 2)
            numbers = [[fx, fy, cx, cy]] * count
            of_view = (fx * scale, fy * scale, cx * scale - left, cy * scale - top)
    columns: dict[str, object] = {
        "drive_id": [facts.drive_id] * count,
        "camera_index": list(range(count)),
        "model": model,
        **facts.sizes(count),
        **{name: [one[i] for one in numbers] for i, name in enumerate(("fx", "fy", "cx", "cy"))},
        "params": pa.array(params, pa.list_(pa.float64())),
        "origin": [origin] * count,
        "mask": pa.array(pictures if len(pictures) == count else pictures * count, pa.binary()),
        "view_width": [net[0]] * count,
        "view_height": [net[1]] * count,
        **{f"view_{name}": [value] * count for name, value in zip(("fx", "fy", "cx", "cy"), of_view, strict=True)},
    }
    return _table(schema.CAMERAS, columns)


def _png(mask: NDArray[np.bool_]) -> bytes:
    picture = io.BytesIO()
    Image.fromarray(mask).save(picture, "PNG")
    return picture.getvalue()


def write_table(table: pa.Table, name: str, drive_uri: str, scratch: Path) -> WrittenFile:
    """Publish a small table as <drive_uri>/<name>. Raises StorageError."""
    path = scratch / name
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)
    return publish_file(path, storage.join(drive_uri, name), name, rows=table.num_rows)


def _table(kind: pa.Schema, columns: dict[str, object]) -> pa.Table:
    arrays = []
    for field in kind:
        values = columns[field.name]
        array = values if isinstance(values, pa.Array) else pa.array(values)
        arrays.append(array.cast(field.type))
    table = pa.Table.from_arrays(arrays, schema=kind)
    for field, column in zip(kind, table.columns, strict=True):
        assert field.nullable or not column.null_count, f"null in {field.name}"
    return table


def _pose_columns(
    positions: NDArray[np.generic], quaternions: NDArray[np.floating], there: NDArray[np.bool_]
) -> dict[str, object]:
    names = {axis: positions[:, i] for i, axis in enumerate("xyz")}
    names |= {f"q{part}": quaternions[:, i] for i, part in enumerate("wxyz")}
    return {name: _or_null(values, there) for name, values in names.items()}


def _or_null(values: NDArray[np.generic], there: NDArray[np.bool_]) -> pa.Array:
    return pa.array(np.ascontiguousarray(values), mask=~there)


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)

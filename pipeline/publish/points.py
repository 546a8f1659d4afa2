"""Turns depth maps into world points, and points into sorted Parquet shards; memory does not grow with the drive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import schema, storage
from pipeline.common.background_writer import BackgroundWriter
from pipeline.publish.config import PublishConfig
from pipeline.publish.files import WrittenFile, publish_file
from pipeline.publish.morton import morton_order
from pipeline.publish.voxels import VoxelFilter

_FLOATS = ["x", "y", "z", "confidence"]
_WHOLE = ["r", "g", "b", "frame_index", "chunk_index", "class"]


@dataclass(frozen=True)
class PointBlock:
    """n points in the world frame: xyz (3, n) and confidence (n,) float32, rgb (3, n) uint8, frame and chunk
    (n,) int32, kind (n,) uint8 (the column `class`)."""

    xyz: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    frame_index: NDArray[np.int32]
    chunk_index: NDArray[np.int32]
    kind: NDArray[np.uint8]

    @staticmethod
    def empty(count: int) -> PointBlock:
        """Room for `count` points."""
        return PointBlock(
            np.empty((3, count), np.float32),
            np.empty((3, count), np.uint8),
            np.empty(count, np.float32),
            np.empty(count, np.int32),
            np.empty(count, np.int32),
            np.zeros(count, np.uint8),
        )

    def __len__(self) -> int:
        return len(self.confidence)

    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        return (self.xyz, self.rgb, self.confidence, self.frame_index, self.chunk_index, self.kind)

    def take(self, places: NDArray[np.int64] | slice) -> PointBlock:
        """The points at these places; a slice gives views."""
        return PointBlock(
            self.xyz[..., places],
            self.rgb[..., places],
            self.confidence[places],
            self.frame_index[places],
            self.chunk_index[places],
            self.kind[places],
        )

    def put(self, start: int, block: PointBlock) -> None:
        """Write `block` over the points from `start` on."""
        for own, new in zip(self.arrays(), block.arrays(), strict=True):
            own[..., start : start + len(block)] = new


def median(values: NDArray[np.floating]) -> float:
    """The median of finite values (n,): the upper of the two middle ones, NaN without values. Much faster than
    np.median."""
    return float(np.partition(values, len(values) // 2)[len(values) // 2]) if len(values) else float("nan")


def confidence_threshold(confidence: NDArray[np.floating], depth: NDArray[np.floating], share: float) -> float:
    """`share` times the median confidence of the pixels with a depth; 0.0 where no pixel has one."""
    usable = confidence[_usable(depth, confidence)]
    return share * median(usable) if usable.size else 0.0


def sky_depth(depth: NDArray[np.floating], confidence: NDArray[np.floating], far: float) -> float:
    """The depth of a chunk beyond which points count as sky, in chunk units: `far` times the median depth of its frames
    (S, h, w); infinity where no pixel has a depth."""
    usable = depth[_usable(depth, confidence)]
    return far * median(usable) if usable.size else float("inf")


def frame_points(
    depth: NDArray[np.floating],
    confidence: NDArray[np.floating],
    rgb: NDArray[np.uint8],
    intrinsics: NDArray[np.floating],
    world_from_camera: NDArray[np.floating],
    depth_scale: float,
    threshold: float,
    frame_index: int,
    chunk_index: int,
    sky_depth: float = np.inf,
    kind: NDArray[np.uint8] | None = None,
) -> PointBlock:
    """The points of one frame: depth (h, w) unprojected at pixel centres (+0.5), times `depth_scale` (world units per
    chunk unit), transformed by world_from_camera (4, 4). intrinsics (3, 3) in pixels of the h x w grid, rgb (h, w, 3).

    kind: the class of each pixel (h, w), unknown by default; where it is unknown, points deeper than `sky_depth` (chunk
    units) get the class sky. Pixels with a confidence below `threshold`, without a finite depth above zero or without a
    finite confidence give no point.
    """
    height, width = depth.shape
    # Indices, not a mask: selection by indices is several times as fast.
    places = np.flatnonzero(_usable(depth, confidence) & (confidence >= threshold))
    k = np.asarray(intrinsics, np.float64)
    # A pixel's ray in the world is the sum of a part of its row and one of its column, so no (h, w, 3) grid is needed.
    rotation = np.asarray(world_from_camera, np.float64)[:3, :3] * depth_scale
    across = (np.arange(width) + 0.5 - k[0, 2]) / k[0, 0]
    down = (np.arange(height) + 0.5 - k[1, 2]) / k[1, 1]
    distance = depth.reshape(-1)[places].astype(np.float32, copy=False)
    colours = rgb.reshape(-1, 3)
    block = PointBlock.empty(len(places))
    for axis in range(3):
        along_row = (rotation[axis, 0] * across).astype(np.float32)
        along_column = (rotation[axis, 1] * down + rotation[axis, 2]).astype(np.float32)
        ray = (along_column[:, None] + along_row[None, :]).reshape(-1)[places]
        with np.errstate(over="ignore"):
            np.multiply(ray, distance, out=ray)
        np.add(ray, np.float32(world_from_camera[axis, 3]), out=block.xyz[axis])
        block.rgb[axis] = colours[:, axis][places]
    block.confidence[:] = confidence.reshape(-1)[places]
    block.frame_index[:] = frame_index
    block.chunk_index[:] = chunk_index
    if kind is not None:
        block.kind[:] = kind.reshape(-1)[places]
    block.kind[(block.kind == schema.UNKNOWN) & (distance > sky_depth)] = schema.SKY
    # the network's exp() can overflow float32 after scaling; such a point is dropped
    finite = np.isfinite(block.xyz).all(axis=0)
    return block if finite.all() else block.take(np.flatnonzero(finite))


def _usable(depth: NDArray[np.floating], confidence: NDArray[np.floating]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        return np.isfinite(depth) & (depth > 0) & np.isfinite(confidence)


class ShardWriter:
    """Gathers points and writes them as points/part-NNNNN.parquet, each sorted along a Morton curve.

    A thread sorts and writes a full shard while the next one fills. `append` blocks before a third one begins, so at
    most two are in memory. Use it as a context: a normal exit writes the remaining points; then `files` and
    `points_of_chunk` are complete.
    """

    def __init__(
        self, drive_uri: str, chunk_count: int, config: PublishConfig, scratch: Path, *, on_earth: bool = False
    ) -> None:
        self._drive_uri = drive_uri
        self._config = config
        self._scratch = scratch
        self._kind = schema.on_earth(schema.POINTS) if on_earth else schema.POINTS
        self._voxels = VoxelFilter(config.voxel_size, config.voxel_memory) if config.voxel_size else None
        self._room = PointBlock.empty(config.shard_rows)
        self._filled = 0
        self._writer = BackgroundWriter(most=0)
        self._count = 0
        self.files: list[WrittenFile] = []
        self.points_of_chunk = np.zeros(chunk_count, np.int64)

    def append(self, block: PointBlock) -> None:
        """Add points; may wait until the last full shard is written. Raises the error of that write."""
        start = 0
        while start < len(block):
            part = block.take(slice(start, start + self._config.shard_rows - self._filled))
            self._room.put(self._filled, part)
            self._filled += len(part)
            start += len(part)
            if self._filled == self._config.shard_rows:
                self._thin()
                # Only if less than half remains is the shard filled again; otherwise it would be thinned too often.
                if 2 * self._filled > self._config.shard_rows:
                    self._flush()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._thin()
                self._flush()
                self._writer.flush()
        finally:
            self._writer.close()

    def _thin(self) -> None:
        if self._voxels is not None:
            points = self._room.take(slice(0, self._filled))
            kept = points.take(self._voxels.keep(points.xyz, points.confidence))
            self._room.put(0, kept)
            self._filled = len(kept)

    def _flush(self) -> None:
        if not self._filled:
            return
        shard = self._room.take(slice(0, self._filled))
        if self._voxels is not None:
            self._voxels.remember(shard.xyz)
        self.points_of_chunk += np.bincount(shard.chunk_index, minlength=len(self.points_of_chunk))
        name = f"points/part-{self._count:05d}.parquet"
        self._writer.submit(lambda: self._write(shard, name))
        self._count += 1
        self._room = PointBlock.empty(self._config.shard_rows)
        self._filled = 0

    def _write(self, shard: PointBlock, name: str) -> None:
        self.files.append(_write_shard(shard, name, self._drive_uri, self._config, self._scratch, self._kind))


def _write_shard(
    shard: PointBlock, name: str, drive_uri: str, config: PublishConfig, scratch: Path, kind: pa.Schema
) -> WrittenFile:
    path = scratch / Path(name).name
    order = morton_order(shard.xyz)
    with pq.ParquetWriter(
        path,
        kind,
        # Floats of neighbours compress well after a byte split; small integers compress best with a dictionary.
        # zstd 1 takes 0.15 us a point and saves a quarter of the bytes; higher levels save nothing more.
        compression="zstd",
        compression_level=1,
        use_dictionary=_WHOLE,
        column_encoding=dict.fromkeys(_FLOATS, "BYTE_STREAM_SPLIT"),
        write_statistics=True,
        write_page_checksum=True,
    ) as writer:
        for start in range(0, len(order), config.row_group_rows):
            writer.write_table(points_table(shard.take(order[start : start + config.row_group_rows])))
    low, high = shard.xyz.min(axis=1), shard.xyz.max(axis=1)
    box = (tuple(float(v) for v in low), tuple(float(v) for v in high))
    return publish_file(path, storage.join(drive_uri, *name.split("/")), name, rows=len(shard), box=box)


def points_table(block: PointBlock) -> pa.Table:
    """The points as an Arrow table of schema.POINTS."""
    columns = [*block.xyz, *block.rgb, block.confidence, block.frame_index, block.chunk_index, block.kind]
    return pa.Table.from_arrays([pa.array(column) for column in columns], schema=schema.POINTS)

"""A sample of a point cloud: the same share of every row group, so that a cloud of any size opens in seconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.publish import PublishedDrive
from pipeline.publish.selection import BoxLike

_COLUMNS = ("x", "y", "z", "r", "g", "b", "confidence", "chunk_index")
_FAR = 4.0  # uncertain points further away than this many times the median distance are mostly sky


@dataclass(frozen=True, eq=False)
class PointSample:
    """n points of a drive: xyz (n, 3) float32 in the world frame, rgb (n, 3) uint8, confidence (n,) float32, chunk
    (n,) int32; total: number of points from which the sample was taken.
    """

    xyz: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    chunk: NDArray[np.int32]
    total: int

    def __len__(self) -> int:
        return len(self.confidence)

    @property
    def note(self) -> str:
        """What is shown, in words."""
        if not self.total:
            return "the drive was published without points"
        if len(self) == self.total:
            return f"all {self.total:,} points"
        return f"{len(self):,} of {self.total:,} points, an even sample; uncertain far points are left out"


def sample_points(drive: PublishedDrive, budget: int, box: BoxLike | None = None) -> PointSample:
    """At most about `budget` points: the same share of every row group (in `box`, if given), evenly along the Morton
    curve and therefore evenly in space.

    Row groups are read one by one, so the memory is that of the sample. Points that are both uncertain and far are left
    out. Raises DriveError for a shard that cannot be read, ValueError for a budget below one.
    """
    if budget < 1:
        raise ValueError(f"--points must be at least 1, not {budget}")
    total = drive.manifest.counts.points if box is None else _rows(drive, box)
    parts: list[pa.Table] = []
    position = 0.0  # place of the next sampled point in the next row group
    step = max(total / budget, 1.0)
    for batch in drive.point_batches(box, columns=_COLUMNS, far=_FAR):
        if step > 1:
            places = np.arange(position, batch.num_rows, step)
            position += len(places) * step - batch.num_rows
            batch = batch.take(pa.array(places.astype(np.int64)))
        parts.append(batch)
    if not parts:
        return _sample({name: np.empty(0) for name in _COLUMNS}, total)
    table = pa.concat_tables(parts)
    return _sample({name: table[name].to_numpy() for name in _COLUMNS}, total)


def _rows(drive: PublishedDrive, box: BoxLike) -> int:
    """Estimated number of rows in row groups that may contain points in the box, from statistics."""
    return sum(groups.file.rows * len(groups.chosen) // max(groups.total, 1) for groups in drive.row_groups(box))


def _sample(column: dict[str, NDArray[np.generic]], total: int) -> PointSample:
    return PointSample(
        np.stack([column[name] for name in "xyz"], -1).astype(np.float32),
        np.stack([column[name] for name in "rgb"], -1).astype(np.uint8),
        column["confidence"].astype(np.float32),
        column["chunk_index"].astype(np.int32),
        total,
    )

"""Reading a published drive: tables whole, points by box and confidence without touching the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema, storage
from pipeline.errors import DriveError
from pipeline.publish.files import Box, WrittenFile
from pipeline.publish.manifest import Manifest, read_manifest
from pipeline.publish.voxels import best_of_each, voxel_keys

BoxLike = Sequence[Sequence[float]]
"""Lowest and highest corner, ((x, y, z), (x, y, z)) in the world frame; points on its faces are inside."""

_AXES = ("x", "y", "z")
_THINNED_AT = 1_000_000  # points gathered before they are thinned again: some 30 MB


def open_drive(output: str, drive_id: str) -> PublishedDrive:
    """The result of one drive. DriveError where it is not there, not finished, damaged or of a newer
    schema."""
    return PublishedDrive(storage.join(output, drive_id), read_manifest(output, drive_id))


@dataclass(frozen=True)
class RowGroups:
    """Row groups of one shard that may hold points asked for, and how many it has."""

    file: WrittenFile
    chosen: tuple[int, ...]
    total: int


@dataclass(frozen=True)
class PublishedDrive:
    """A finished drive at `uri`. Only files that its manifest names are read."""

    uri: str
    manifest: Manifest

    @cached_property
    def poses(self) -> pa.Table:
        """schema.POSES, one row a frame (`.to_pandas()` for notebooks that have pandas)."""
        return self._table("poses.parquet")

    @cached_property
    def chunks(self) -> pa.Table:
        """schema.CHUNKS, one row a chunk."""
        return self._table("chunks.parquet")

    @cached_property
    def loops(self) -> pa.Table:
        """schema.LOOPS, one row a candidate."""
        return self._table("loops.parquet")

    def points(
        self,
        box: BoxLike | None = None,
        columns: Sequence[str] | None = None,
        min_confidence: float | None = None,
        voxel: float | None = None,
    ) -> pa.Table:
        """The points in `box` with at least `min_confidence`, columns as asked (all of schema.POINTS by
        default).

        voxel: one point a cube of this side, the most confident. The whole answer is in memory:
        `point_batches` goes through large ones. ValueError for an unknown column or a box that is none.
        """
        wanted = _columns(columns)
        needed = wanted if voxel is None else _columns([*wanted, *_AXES, "confidence"])
        parts: list[pa.Table] = []
        rows, thinned = 0, 0
        for batch in self.point_batches(box, needed, min_confidence):
            parts.append(batch)
            rows += batch.num_rows
            if voxel is not None and rows > 2 * thinned + _THINNED_AT:
                parts = [_thin(pa.concat_tables(parts), voxel)]
                rows = thinned = parts[0].num_rows
        table = pa.concat_tables(parts) if parts else _points_schema(needed).empty_table()
        return (table if voxel is None else _thin(table, voxel)).select(wanted)

    def point_batches(
        self,
        box: BoxLike | None = None,
        columns: Sequence[str] | None = None,
        min_confidence: float | None = None,
    ) -> Iterator[pa.Table]:
        """`points` piece by piece, a row group (some 65,536 rows) at a time, in the order of the files."""
        wanted, limits = _columns(columns), _limits(box, min_confidence)
        needed = _columns([*wanted, *limits])
        kind = _points_schema(wanted)
        for file in self.manifest.point_files:
            if not _may_hold(file.box, limits):
                continue
            with self._open(file) as parquet:
                for group in _chosen(parquet, limits):
                    table = parquet.read_row_group(group, columns=needed)
                    inside = np.ones(table.num_rows, bool)
                    for name, (low, high) in limits.items():
                        values = table[name].to_numpy()
                        inside &= (values >= low) & (values <= high)
                    if not inside.all():
                        table = table.filter(pa.array(inside))
                    if table.num_rows:
                        yield table.select(wanted).cast(kind)

    def row_groups(
        self, box: BoxLike | None = None, min_confidence: float | None = None
    ) -> tuple[RowGroups, ...]:
        """Which row groups `points` would read, from statistics alone (a shard's footer is read where the
        manifest does not rule the shard out)."""
        limits = _limits(box, min_confidence)
        plan = []
        for file in self.manifest.point_files:
            if _may_hold(file.box, limits):
                with self._open(file) as parquet:
                    plan.append(RowGroups(file, tuple(_chosen(parquet, limits)), parquet.num_row_groups))
        return tuple(plan)

    def _open(self, file: WrittenFile) -> pq.ParquetFile:
        uri = storage.join(self.uri, *file.path.split("/"))
        # Local files by name: pyarrow reads those without the interpreter in between.
        source = storage.absolute(uri) if storage.is_local(uri) else storage.open_input(uri)
        try:
            return pq.ParquetFile(source)
        except (OSError, pa.ArrowInvalid) as error:
            raise DriveError(
                f"drive {self.manifest.drive_id}: {file.path} named by its manifest cannot be read ({error})"
            ) from None

    def _table(self, name: str) -> pa.Table:
        file = next((one for one in self.manifest.files if one.path == name), None)
        if file is None:
            raise DriveError(
                f"drive {self.manifest.drive_id}: its manifest names no {name}; publish it again"
            )
        with self._open(file) as parquet:
            return parquet.read()


def _columns(names: Sequence[str] | None) -> list[str]:
    """The columns in the order of the schema, each once."""
    known = schema.POINTS.names
    if names is None:
        return list(known)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"points have columns {', '.join(known)}; there is no {unknown[0]!r}")
    return [name for name in known if name in set(names)]


def _points_schema(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([schema.POINTS.field(name) for name in columns], metadata=schema.POINTS.metadata)


def _limits(box: BoxLike | None, min_confidence: float | None) -> dict[str, tuple[float, float]]:
    """Column -> lowest and highest value asked for, both inside."""
    limits: dict[str, tuple[float, float]] = {}
    if box is not None:
        corners = np.asarray(box, np.float64)
        if corners.shape != (2, 3) or not (corners[0] <= corners[1]).all():
            raise ValueError(
                f"a box is its lowest and its highest corner, ((x, y, z), (x, y, z)), got {box!r}"
            )
        limits |= {axis: (float(corners[0, i]), float(corners[1, i])) for i, axis in enumerate(_AXES)}
    if min_confidence is not None:
        limits["confidence"] = (float(min_confidence), float("inf"))
    return limits


def _may_hold(box: Box | None, limits: dict[str, tuple[float, float]]) -> bool:
    if box is None:
        return True
    return all(
        box[0][i] <= limits[axis][1] and box[1][i] >= limits[axis][0]
        for i, axis in enumerate(_AXES)
        if axis in limits
    )


def _chosen(parquet: pq.ParquetFile, limits: dict[str, tuple[float, float]]) -> Iterator[int]:
    """Row groups whose statistics do not rule them out."""
    place = {name: parquet.schema_arrow.get_field_index(name) for name in limits}
    for group in range(parquet.num_row_groups):
        metadata = parquet.metadata.row_group(group)
        for name, (low, high) in limits.items():
            statistics: Any = metadata.column(place[name]).statistics
            if (
                statistics is not None
                and statistics.has_min_max
                and not (statistics.min <= high and statistics.max >= low)
            ):
                break
        else:
            yield group


def _thin(table: pa.Table, size: float) -> pa.Table:
    xyz = np.stack([table[axis].to_numpy() for axis in _AXES])
    _, places = best_of_each(voxel_keys(xyz, size), table["confidence"].to_numpy())
    return table.take(pa.array(np.sort(places))).combine_chunks()

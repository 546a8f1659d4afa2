"""Reads a published drive: whole tables, cameras as arrays, and points selected by box, frame and confidence without
reading all points."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pipeline import schema, storage
from pipeline.cameras.camera import Camera
from pipeline.cameras.rectify import View
from pipeline.publish import lenses
from pipeline.publish.cameras import Cameras
from pipeline.publish.files import Box, WrittenFile
from pipeline.publish.frame_source import FrameSource
from pipeline.publish.manifest import Manifest, read_manifest
from pipeline.publish.selection import AXES, BoxLike, Limits, Selection
from pipeline.publish.table_files import TableFiles
from pipeline.publish.voxels import VoxelFilter, best_of_each, own_voxel_keys

_THINNED_AT = 1_000_000  # points that are gathered before they are thinned (again): some 30 MB
_REMEMBERED = 16_777_216  # cubes that point_batches remembers: 128 MB
_SAMPLED_FILES, _SAMPLED_ROWS = 16, 2_000_000  # from which a drive's typical values are taken


def open_drive(
    output: str, drive_id: str, *, check_hashes: bool = False, images_from: str | None = None
) -> PublishedDrive:
    """The result of one drive. Raises DriveError where it is missing, not finished, damaged or of a newer schema.
    check_hashes, images_from: see PublishedDrive."""
    manifest = read_manifest(output, drive_id)
    return PublishedDrive(storage.join(output, drive_id), manifest, check_hashes, images_from)


@dataclass(frozen=True)
class RowGroups:
    """Row groups of one shard that may contain selected points, and the number of all its row groups."""

    file: WrittenFile
    chosen: tuple[int, ...]
    total: int


@dataclass(frozen=True)
class PublishedDrive:
    """A finished drive at `uri`. Only files that its manifest names are read.

    check_hashes: compare each shard of points with its hash before its points are used; the hashes of poses, chunks and
    loops are always compared. Damage raises a DriveError that names the file, at any access. images_from: the folder
    (or video) that contains the images of the frames now, if it is not the input.
    """

    uri: str
    manifest: Manifest
    check_hashes: bool = False
    images_from: str | None = None

    @cached_property
    def frame_source(self) -> FrameSource:
        """The place from which images of frames may be read: the drive's input, or `images_from`."""
        return FrameSource(self.manifest, self.images_from)

    @cached_property
    def _files(self) -> TableFiles:
        return TableFiles(self.uri, self.manifest, self.check_hashes)

    @cached_property
    def poses(self) -> pa.Table:
        """schema.POSES, one row a frame (`.to_pandas()` makes a data frame)."""
        return self._files.table("poses.parquet")

    @property
    def camera_count(self) -> int:
        """The number of cameras, whose rows alternate in `poses`, the reference camera first; 1 without a rig."""
        return len(self.poses["camera"].unique()) if "camera" in self.poses.column_names and len(self.poses) else 1

    @cached_property
    def chunks(self) -> pa.Table:
        """schema.CHUNKS, one row a chunk."""
        return self._files.table("chunks.parquet")

    @cached_property
    def loops(self) -> pa.Table:
        """schema.LOOPS, one row a candidate."""
        return self._files.table("loops.parquet")

    @cached_property
    def positions(self) -> pa.Table | None:
        """schema.POSITIONS, one row a fix; None for a drive without positions."""
        return self._table_if_there("positions.parquet")

    @cached_property
    def tracks(self) -> pa.Table | None:
        """schema.TRACKS, one row an observation; None where no corner was followed, or no window was improved by it."""
        return self._table_if_there("tracks.parquet")

    @cached_property
    def evidence(self) -> pa.Table | None:
        """schema.EVIDENCE, one row a pair of frames; None where no corner was followed."""
        return self._table_if_there("evidence.parquet")

    def _table_if_there(self, name: str) -> pa.Table | None:
        if not any(file.path.rpartition("/")[2] == name for file in self.manifest.files):
            return None
        return self._files.table(name)

    @cached_property
    def places(self) -> pa.Table | None:
        """schema.PLACES, one row a frame that was described; None for a drive without place descriptors."""
        if not any(file.path.rpartition("/")[2] == "places.parquet" for file in self.manifest.files):
            return None
        return self._files.table("places.parquet")

    @property
    def origin(self) -> tuple[float, float, float] | None:
        """Latitude, longitude (degrees) and altitude (metres) of the world's origin; None for a relative drive."""
        place = self.manifest.place
        return None if place is None else (place.origin.latitude, place.origin.longitude, place.origin.altitude)

    @cached_property
    def cameras(self) -> Cameras:
        """The frames that have a pose, as arrays: world_from_camera (N, 4, 4), intrinsics, sizes, times, URIs."""
        return self.cameras_of(None)

    def cameras_of(self, frames: Sequence[int] | None) -> Cameras:
        """The same of the frames from the first to one before the last; None: of all frames."""
        return Cameras.of(self.poses, frames, self.lens, lenses.different_cameras(self.camera_rows))

    @cached_property
    def camera_rows(self) -> list[dict[str, Any]]:  # of the types of schema.CAMERAS
        """The rows of cameras.parquet, one for each camera; none for an older result, which has no such file. Results
        of rigs had one row once."""
        if not any(file.path.rpartition("/")[2] == "cameras.parquet" for file in self.manifest.files):
            return []
        return self._files.table("cameras.parquet").to_pylist()

    @cached_property
    def lens(self) -> Camera | None:
        """The model of the (first) camera, where it is no pinhole; None for a pinhole, whose numbers are in `poses`,
        and for older results, which have none."""
        return lenses.lens_of(self.camera_rows, 0)

    @property
    def has_lens(self) -> bool:
        """Whether any camera is no pinhole."""
        return any(lenses.lens_of(self.camera_rows, camera) is not None for camera in range(len(self.camera_rows)))

    @cached_property
    def masks(self) -> tuple[NDArray[np.bool_] | None, ...]:
        """For each camera the mask (h, w) of the network's pictures: False where --masks left pixels out; None without
        a mask. One for all cameras of a rig in results that have one row for them."""
        found: list[NDArray[np.bool_] | None] = []
        for row in self.camera_rows:
            if row.get("mask") is None:
                found.append(None)
                continue
            with Image.open(io.BytesIO(row["mask"]), formats=("PNG",)) as image:
                found.append(np.asarray(image.convert("L")) > 0)
        return tuple(found)

    def undistorted_view(self, frame: int = 0) -> View | None:
        """The pinhole view of a rectified frame of the same camera as `frame`: as wide as the network's pictures, at
        the frame's size; None where frames are a pinhole's already."""
        return lenses.undistorted_view(self.camera_rows, frame % self.camera_count)

    def network_view(self, frame: int, width: int, height: int) -> View | None:
        """How a frame was rectified for the network, at width x height; None where it was only scaled and cropped."""
        return lenses.network_view(self.camera_rows, frame % self.camera_count, width, height)

    def points(
        self,
        box: BoxLike | None = None,
        columns: Sequence[str] | None = None,
        min_confidence: float | None = None,
        voxel: float | None = None,
        frames: tuple[int, int] | None = None,
        far: float | None = None,
        sky: bool = False,
        ego: bool = False,
    ) -> pa.Table:
        """The selected points (by default all) with the selected columns (by default all of schema.POINTS).

        box: lowest and highest corner in the world frame. frames: first frame, and one past the last, in which points
        were seen. voxel: keep one point, the most confident, in each cube of this side. far: leave out unsure points
        that are further away than this many times the median distance (see Selection). sky, ego: include points of
        these classes. The whole answer is in memory; use `point_batches` for large ones. Raises ValueError for an
        unknown column or an invalid box.
        """
        selection = Selection(frames, box, min_confidence, None, far, sky, ego)  # type: ignore[arg-type]
        wanted = _columns(columns)
        if voxel is None:
            parts = list(self.select(selection, wanted))
            return pa.concat_tables(parts) if parts else _points_schema(wanted).empty_table()
        Selection(voxel=voxel)  # raises for an invalid size of cubes
        needed = _columns([*wanted, *AXES, "confidence"])
        parts, rows, thinned = [], 0, 0
        for batch in self.select(selection, needed):
            parts.append(batch)
            rows += batch.num_rows
            if rows > 2 * thinned + _THINNED_AT:
                parts = [_thin(pa.concat_tables(parts), voxel)]
                rows = thinned = parts[0].num_rows
        table = pa.concat_tables(parts) if parts else _points_schema(needed).empty_table()
        return _thin(table, voxel).select(wanted)

    def point_batches(
        self,
        box: BoxLike | None = None,
        columns: Sequence[str] | None = None,
        min_confidence: float | None = None,
        voxel: float | None = None,
        frames: tuple[int, int] | None = None,
        far: float | None = None,
        sky: bool = False,
        ego: bool = False,
    ) -> Iterator[pa.Table]:
        """`points` piece by piece in bounded memory, in the order of the files. A piece comes from one row group (some
        65,536 rows); with `voxel`, from a million points.

        With `voxel` there is one point in each cube: the most confident of the first piece with points in this cube.
        """
        selection = Selection(frames, box, min_confidence, voxel, far, sky, ego)  # type: ignore[arg-type]
        return self.select(selection, columns)

    def select(self, selection: Selection, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """`point_batches` of a Selection."""
        wanted = _columns(columns)
        if selection.voxel is None:
            return self._rows(selection, wanted)
        return self._thinned(selection, wanted, selection.voxel)

    def row_groups(
        self,
        box: BoxLike | None = None,
        min_confidence: float | None = None,
        frames: tuple[int, int] | None = None,
    ) -> tuple[RowGroups, ...]:
        """The row groups that `points` would read, from statistics alone. The footer of a shard is read unless the
        manifest shows that the shard contains no selected points."""
        limits = Selection(frames, box, min_confidence).limits()  # type: ignore[arg-type]
        plan = []
        for file in self.manifest.point_files:
            if _may_hold(file.box, limits):
                with self._files.open(file) as parquet:
                    plan.append(RowGroups(file, self._chosen(file, parquet, limits), parquet.num_row_groups))
        return tuple(plan)

    @cached_property
    def typical(self) -> tuple[float, float]:
        """Median distance of points from their camera (world units) and median confidence, from a sample of row groups
        over the whole drive; NaN without points."""
        every = self.manifest.point_files
        files = [every[place] for place in _spread(len(every), _SAMPLED_FILES)]
        distances, confidences = [np.zeros(0)], [np.zeros(0)]
        for file in files:
            with self._files.open(file) as parquet:
                groups = parquet.num_row_groups
                wanted = max(_SAMPLED_ROWS * groups // (len(files) * max(file.rows, 1)), 1)
                for group in _spread(groups, wanted):
                    columns = [*AXES, "confidence", "frame_index"]
                    table = self._files.row_group(file, parquet, group, columns)
                    distances.append(self._distance(table))
                    confidences.append(table["confidence"].to_numpy())
        distance, confidence = np.concatenate(distances), np.concatenate(confidences)
        if not len(distance):
            return float("nan"), float("nan")
        return float(np.median(distance)), float(np.median(confidence))

    def _rows(self, selection: Selection, wanted: list[str]) -> Iterator[pa.Table]:
        limits = selection.limits()
        needed = _columns([*wanted, *limits, *(["class"] if selection.left_out else [])])
        if selection.far is not None:
            needed = _columns([*needed, *AXES, "confidence", "frame_index"])
        kind = _points_schema(wanted)
        for file in self.manifest.point_files:
            if not _may_hold(file.box, limits):
                continue
            with self._files.open(file) as parquet:
                for group in self._chosen(file, parquet, limits):
                    table = self._files.row_group(file, parquet, group, needed)
                    inside = np.ones(table.num_rows, bool)
                    for name, (low, high) in limits.items():
                        values = table[name].to_numpy()
                        inside &= (values >= low) & (values <= high)
                    for kind_left in selection.left_out:
                        inside &= table["class"].to_numpy() != kind_left
                    if selection.far is not None:
                        inside &= self._near_or_sure(table, selection.far)
                    if not inside.all():
                        table = table.filter(pa.array(inside))
                    if table.num_rows:
                        yield table.select(wanted).cast(kind)

    def _chosen(self, file: WrittenFile, parquet: pq.ParquetFile, limits: Limits) -> tuple[int, ...]:
        with self._files.reading(file):
            return tuple(_chosen(parquet, limits))

    def _thinned(self, selection: Selection, wanted: list[str], size: float) -> Iterator[pa.Table]:
        cubes = VoxelFilter(size, _REMEMBERED)
        parts: list[pa.Table] = []
        rows = 0

        def thin() -> pa.Table:
            table = pa.concat_tables(parts)
            xyz = _stacked(table)
            kept = cubes.keep(xyz, table["confidence"].to_numpy())
            cubes.remember(xyz[:, kept])
            return table.take(pa.array(kept)).select(wanted).combine_chunks()

        for batch in self._rows(selection, _columns([*wanted, *AXES, "confidence"])):
            parts.append(batch)
            rows += batch.num_rows
            if rows >= _THINNED_AT:
                thinned, parts, rows = thin(), [], 0
                if thinned.num_rows:
                    yield thinned
        if parts and (thinned := thin()).num_rows:
            yield thinned

    def _near_or_sure(self, table: pa.Table, far: float) -> NDArray[np.bool_]:
        distance, confidence = self.typical
        return (self._distance(table) <= far * distance) | (table["confidence"].to_numpy() >= confidence)

    def _distance(self, table: pa.Table) -> NDArray[np.float64]:
        place = self.cameras.places(table["frame_index"].to_numpy())
        position = self.cameras.world_from_camera[place, :3, 3]
        return np.asarray(np.linalg.norm(_stacked(table).T - position, axis=1))


def _columns(names: Sequence[str] | None) -> list[str]:
    """The wanted columns in the order of the schema, each once."""
    known = schema.POINTS.names
    if names is None:
        return list(known)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"points have columns {', '.join(known)}; there is no {unknown[0]!r}")
    return [name for name in known if name in set(names)]


def _points_schema(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([schema.POINTS.field(name) for name in columns], metadata=schema.POINTS.metadata)


def _spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of the places 0..count-1, evenly."""
    if count <= wanted:
        return list(range(count))
    return sorted({(2 * i + 1) * count // (2 * wanted) for i in range(wanted)})


def _may_hold(box: Box | None, limits: Limits) -> bool:
    if box is None:
        return True
    return all(
        box[0][i] <= limits[axis][1] and box[1][i] >= limits[axis][0] for i, axis in enumerate(AXES) if axis in limits
    )


def _chosen(parquet: pq.ParquetFile, limits: Limits) -> Iterator[int]:
    """Row groups that may contain selected points by their statistics."""
    place = {name: parquet.schema_arrow.get_field_index(name) for name in limits}
    for group in range(parquet.num_row_groups):
        metadata = parquet.metadata.row_group(group)
        for name, (low, high) in limits.items():
            statistics: pq.Statistics | None = metadata.column(place[name]).statistics
            if (
                statistics is not None
                and statistics.has_min_max
                and not (statistics.min <= high and statistics.max >= low)
            ):
                break
        else:
            yield group


def _thin(table: pa.Table, size: float) -> pa.Table:
    _, places = best_of_each(own_voxel_keys(_stacked(table), size), table["confidence"].to_numpy())
    return table.take(pa.array(np.sort(places))).combine_chunks()


def _stacked(table: pa.Table) -> NDArray[np.float32]:
    """Positions (3, n)."""
    return np.stack([table[axis].to_numpy() for axis in AXES])

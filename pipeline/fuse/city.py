"""Reads a published city: drives, links, poses, changes, and the points in a box."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import DriveError, PipelineError
from pipeline.fuse.city_files import CityFile, CityManifest, Tile, city_uri, newest_version, read_version
from pipeline.fuse.city_schema import CHANGE, CHANGES, DRIVES, LINKS, POINTS, POSES
from pipeline.fuse.placement import Placement
from pipeline.publish.poses import rotation_from_quaternion
from pipeline.publish.selection import BoxLike, Selection
from pipeline.publish.table_checks import UNREADABLE, open_parquet

_LARGEST_BYTES = 2**32


class DamagedCityError(DriveError):
    """A file of a city is damaged or gone."""


def open_city(output: str, version: str | None = None) -> PublishedCity:
    """The city of an output: its newest complete version, or the one named by `version`.

    Raises DriveError if there is none or its manifest is damaged, and StorageError.
    """
    manifest = newest_version(output) if version is None else read_version(output, version)
    if manifest is None:
        which = "no city" if version is None else f"no complete version {version} of a city"
        raise DriveError(f"{which} in {storage.redacted(output)}; make one with jobs.fuse, or check --output")
    return PublishedCity(output, manifest)


@dataclass(frozen=True)
class PublishedCity:
    """A version of a city. It reads only files that the manifest names, and only if size and SHA-256 are those in the
    manifest. The tables raise DamagedCityError where a file is damaged or gone, and StorageError."""

    output: str
    manifest: CityManifest

    @cached_property
    def drives(self) -> pa.Table:
        """city_schema.DRIVES, one row a drive."""
        return self._table("drives", DRIVES)

    @cached_property
    def poses(self) -> pa.Table:
        """city_schema.POSES, one row a frame."""
        return self._table("poses", POSES)

    @cached_property
    def links(self) -> pa.Table:
        """city_schema.LINKS, one row for each candidate that was verified."""
        return self._table("links", LINKS)

    @cached_property
    def changes(self) -> pa.Table:
        """city_schema.CHANGES, one row for each object that one drive saw and another drive looked through."""
        return self._table("changes", CHANGES)

    @cached_property
    def change_points(self) -> pa.Table:
        """city_schema.CHANGE, the points of all objects."""
        return self._table("change", CHANGE)

    def change_picture(self, path: str) -> bytes:
        """A picture (JPEG) that the table `changes` names. Raises DriveError if it is damaged or gone; StorageError."""
        for file in self.manifest.files:
            if file.path == path:
                return self._bytes(file)
        raise DriveError(f"the manifest of city {self.manifest.version} names no {path}; open the city again")

    @property
    def frames(self) -> tuple[str, ...]:
        """Names of its coordinate frames. Coordinates of two of them are not related."""
        return tuple(frame.name for frame in self.manifest.frames)

    def placements(self) -> dict[str, Placement]:
        """The poses of each drive's frames in the city, by the drive's name."""
        drives, poses = self.drives, self.poses
        index = poses["drive_index"].to_numpy()
        quaternion = np.stack([poses[f"q{part}"].to_numpy() for part in "wxyz"], -1)
        pose = np.tile(np.eye(4), (len(index), 1, 1))
        pose[:, :3, :3] = rotation_from_quaternion(quaternion)
        pose[:, :3, 3] = np.stack([poses[axis].to_numpy() for axis in "xyz"], -1)
        frame, scale = poses["frame_index"].to_numpy().astype(np.int64), poses["scale"].to_numpy()
        answer = {}
        starts = np.append(np.flatnonzero(np.diff(index, prepend=-1)), len(index))  # rows are grouped by drive
        rows = {int(index[a]): slice(int(a), int(b)) for a, b in pairwise(starts)}
        for number, name, of in zip(
            *(drives[c].to_pylist() for c in ("drive_index", "drive_id", "frame")), strict=True
        ):
            mine = rows.get(number, slice(0, 0))
            answer[name] = Placement(of, frame[mine], pose[mine], scale[mine])
        return answer

    def points(
        self,
        box: BoxLike | None = None,
        columns: Sequence[str] | None = None,
        *,
        frame: str | None = None,
        drives: Sequence[str] | None = None,
    ) -> pa.Table:
        """The points in a box, each with the name of its drive (`drive_id`) and the number of its frame.

        Only tiles that the box may meet are read.

        Args:
            box: lowest and highest corner in the frame's coordinates; None: all points.
            columns: of city_schema.POINTS, or `drive_id`; None: all of them.
            frame: name of the coordinate frame; None: `earth` if there is one, or else the only frame.
            drives: only points of these drives; None: of all.

        Raises:
            ValueError: an unknown column, frame or drive, or an invalid box.
            DriveError: a tile is damaged, or a newer version has removed it.
            StorageError: a tile cannot be read.
        """
        wanted = [*POINTS.names, "drive_id"] if columns is None else list(columns)
        unknown = sorted(set(wanted) - {*POINTS.names, "drive_id"})
        if unknown:
            raise ValueError(f"points of a city have columns {', '.join(POINTS.names)}, drive_id; not {unknown[0]!r}")
        lost = sorted(set(drives or ()) - set(self.manifest.keys))
        if lost:
            raise ValueError(f"this city has no drive {lost[0]!r}; it has {', '.join(sorted(self.manifest.keys)[:20])}")
        parts = [table.select(wanted) for table in self._batches(box, self._frame(frame), drives)]
        if parts:
            return pa.concat_tables(parts)
        kinds = {**{one.name: one.type for one in POINTS}, "drive_id": pa.string()}
        return pa.schema([(name, kinds[name]) for name in wanted]).empty_table()

    def tiles_in(self, box: BoxLike | None = None, frame: str | None = None) -> tuple[Tile, ...]:
        """Tiles of a coordinate frame whose points may be in the box; box and frame as in `points`."""
        name = self._frame(frame)
        limits = Selection(box=box).limits() if box is not None else {}  # type: ignore[arg-type]
        return tuple(tile for tile in self.manifest.tiles if tile.frame == name and _meets(tile, limits))

    def _frame(self, frame: str | None) -> str:
        if frame is None and "earth" in self.frames:
            return "earth"
        if frame is None and len(self.frames) == 1:
            return self.frames[0]
        if frame not in self.frames:
            raise ValueError(f"this city has the frames {', '.join(self.frames)}: name one of them, got {frame!r}")
        return str(frame)

    def _batches(self, box: BoxLike | None, frame: str, drives: Sequence[str] | None) -> Iterator[pa.Table]:
        limits = Selection(box=box).limits() if box is not None else {}  # type: ignore[arg-type]
        for tile in self.tiles_in(box, frame):
            if drives is not None and not set(drives) & set(tile.drives):
                continue
            table = self._read(tile.file, POINTS)
            number = table["drive_index"].to_numpy()
            names = {int(index): name for index, name in tile.names.items()}
            lost = set(np.unique(number).tolist()) - set(names)
            if lost:
                raise self._damaged(tile.file, f"has points of drive {min(lost)}, which its manifest does not name")
            inside = np.ones(len(number), bool)
            for axis, (low, high) in limits.items():
                values = table[axis].to_numpy()
                inside &= (values >= low) & (values <= high)
            if drives is not None:
                inside &= np.isin(number, [index for index, name in names.items() if name in drives])
            known = sorted(names)
            place = pa.array(np.searchsorted(known, number))
            named = pa.DictionaryArray.from_arrays(place, pa.array([names[n] for n in known])).cast(pa.string())
            yield table.append_column("drive_id", named).filter(pa.array(inside))

    def _table(self, name: str, kind: pa.Schema) -> pa.Table:
        for file in self.manifest.files:
            if file.path.endswith(f"/{name}.parquet"):
                return self._read(file, kind)
        raise DamagedCityError(
            f"the manifest of city {self.manifest.version} names no {name}.parquet; run jobs.fuse again"
        )

    def _bytes(self, file: CityFile) -> bytes:
        if file.size > _LARGEST_BYTES:
            raise self._damaged(file, f"has {file.size:,} bytes, at most {_LARGEST_BYTES:,} are read")
        place = storage.join(city_uri(self.output), *file.path.split("/"))
        try:
            data = storage.read_bytes(place, file.size + 1)
        except storage.NotFoundError:
            raise DamagedCityError(
                f"city {self.manifest.version}: {file.path} is missing; if a newer version has replaced it, only open "
                "the city again, else run jobs.fuse again"
            ) from None
        if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
            raise self._damaged(file, "does not hold the bytes that were written (size or SHA-256 differs)")
        return data

    def _read(self, file: CityFile, kind: pa.Schema) -> pa.Table:
        data = self._bytes(file)
        try:
            parquet: pq.ParquetFile = open_parquet(io.BytesIO(data))
            if not parquet.schema_arrow.equals(kind, check_metadata=False):
                raise self._damaged(file, "has other columns than expected")
            return parquet.read()
        except PipelineError:
            raise
        except (*UNREADABLE, ValueError) as error:
            raise self._damaged(file, f"cannot be read ({str(error).splitlines()[0][:120]})") from None

    def _damaged(self, file: CityFile, what: str) -> DamagedCityError:
        # A run trusts the size of tiles and pictures that did not change, because it does not read them.
        remedy = "run jobs.fuse again" if file.path.count("/") == 1 else "remove it and run jobs.fuse again"
        return DamagedCityError(f"city {self.manifest.version}: {file.path} {what}; {remedy}")


def _meets(tile: Tile, limits: dict[str, tuple[float, float]]) -> bool:
    if tile.file.box is None:
        return False
    low, high = tile.file.box
    return all(
        low[n] <= limits[axis][1] and high[n] >= limits[axis][0] for n, axis in enumerate("xyz") if axis in limits
    )

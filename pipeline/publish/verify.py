"""Checks a published drive against its manifest: names, sizes, hashes, schemas, rows, ranges, links between tables.

A check returns a list of lines, each with its file; it changes nothing. It needs memory for the drive's poses and one
row group of its points.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import schema, storage
from pipeline.common.geodesy import enu_from_geodetic
from pipeline.common.hashing import sha256_of
from pipeline.errors import DriveError
from pipeline.publish.files import WrittenFile
from pipeline.publish.manifest import MANIFEST, Manifest, read_manifest
from pipeline.publish.table_checks import (
    LARGEST_TABLE_BYTES,
    UNREADABLE,
    floats,
    footer_problems,
    kind_of,
    open_parquet,
    points_group,
    points_problems,
    read_whole,
    row_problems,
    rows_said,
)

_REQUIRED = ("poses", "chunks", "loops")
_BOX = 1e-4  # share of the box's size by which a point may lie outside the box of its shard


@dataclass(frozen=True)
class Problem:
    """One fault: the file (a path below the drive's folder), and one line that describes it."""

    file: str
    what: str


@dataclass(frozen=True)
class DriveCheck:
    """The outcome for one drive. files, bytes: from its manifest; seconds: the duration of the check."""

    drive_id: str
    problems: tuple[Problem, ...] = ()
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether no fault was found."""
        return not self.problems


def verify_drive(output: str, drive_id: str, *, quick: bool = False) -> DriveCheck:
    """Check one drive. quick: only names and sizes, by one listing.

    Raises StorageError where the store does not answer; every other error becomes a problem of the drive.
    """
    begin = time.monotonic()
    try:
        manifest = read_manifest(output, drive_id)
    except DriveError as error:
        return DriveCheck(drive_id, (Problem(MANIFEST, " ".join(str(error).split())),))
    folder = storage.join(output, drive_id)
    check = _Check(manifest, folder)
    check.listing(storage.list_below(folder))
    if not quick:
        check.content()
    return DriveCheck(
        drive_id,
        tuple(check.problems),
        len(manifest.files),
        sum(file.size for file in manifest.files),
        time.monotonic() - begin,
    )


@dataclass
class _Check:
    """Collects the problems of one drive."""

    manifest: Manifest
    folder: str
    problems: list[Problem] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    """Files that are missing, or have another size; their content is not checked."""

    def say(self, file: str, what: str) -> None:
        self.problems.append(Problem(file, what))

    def listing(self, there: dict[str, int]) -> None:
        """Check that every named file is there with its size, that each is named once, and that no table is missing."""
        names = [file.path for file in self.manifest.files]
        for path in sorted({path for path in names if names.count(path) > 1} if len(set(names)) < len(names) else ()):
            self.say(MANIFEST, f"names {path} more than once")
        for table in _REQUIRED:
            if not any(path.rpartition("/")[2] == f"{table}.parquet" for path in names):
                self.say(MANIFEST, f"names no {table}.parquet")
        for file in self.manifest.files:
            size = there.get(file.path)
            if size is None:
                self.missing.add(file.path)
                self.say(file.path, "is gone")
            elif size != file.size:
                self.missing.add(file.path)
                self.say(file.path, f"has {size:,} bytes, not {file.size:,}")

    def content(self) -> None:
        """Check hashes and tables. A file whose hash differs is not checked further."""
        tables: dict[str, pa.Table] = {}
        shards: list[tuple[WrittenFile, NDArray[np.int64]]] = []
        for file in self.manifest.files:
            if file.path in self.missing:
                continue
            with _local_copy(storage.join(self.folder, *file.path.split("/"))) as (path, digest):
                if digest != file.sha256:
                    self.say(file.path, "its bytes are not those that were published (sha256 differs)")
                    continue
                kind = kind_of(file.path)
                if kind != "points" and file.size > LARGEST_TABLE_BYTES:
                    self.say(file.path, f"has {file.size:,} bytes, at most {LARGEST_TABLE_BYTES:,} are read")
                    continue
                try:
                    with open_parquet(path) as parquet:
                        wrong = list(footer_problems(parquet, kind, file.rows))
                        for what in wrong:
                            self.say(file.path, what)
                        if wrong:
                            continue
                        if kind == "points":
                            shards.append((file, self._points(file, parquet)))
                            continue
                    table = read_whole(Path(path).read_bytes())
                    wrong = list(row_problems(kind, table, self.manifest.drive_id, self.manifest.counts))
                    for what in wrong:
                        self.say(file.path, what)
                    tables[kind] = table
                except (*UNREADABLE, ValueError) as error:
                    self.say(file.path, f"cannot be read ({_first_line(error)})")
        self._counts(tables, shards)
        if "chunks" in tables:
            self._chunk_points(tables["chunks"], shards)
        if "poses" in tables:
            self._owners(tables["poses"], shards)
            self._places(_file_of(self.manifest, "poses"), tables["poses"])

    def _places(self, path: str, table: pa.Table) -> None:
        """Check, for a georeferenced drive, that latitude, longitude and altitude are the same place as x, y, z."""
        place = self.manifest.place
        if place is None:
            return
        names = schema.POSES_ON_EARTH.names[len(schema.POSES) :]
        missing = [name for name in names if name not in table.column_names]
        if missing:
            self.say(path, f"has no column {missing[0]}, though the drive is georeferenced")
            return
        latitude, longitude, altitude, *spread = (floats(table, name) for name in names)
        origin = (place.origin.latitude, place.origin.longitude, place.origin.altitude)
        enu = enu_from_geodetic(latitude, longitude, altitude, origin)
        away = np.linalg.norm(enu - np.stack([floats(table, axis) for axis in "xyz"], -1), axis=1)
        known = np.isfinite(floats(table, "x"))
        for what, wrong in (
            ("whose latitude, longitude and altitude are of another place than x, y, z", ~(away < 1e-3)),
            ("with a deviation of the position that is not above zero", ~(np.stack(spread, 1) > 0).all(axis=1)),
        ):
            for said in rows_said("frames", what, known & wrong):
                self.say(path, said)

    def _points(self, file: WrittenFile, parquet: pq.ParquetFile) -> NDArray[np.int64]:
        """Check the ranges in one shard. Returns its points by frame and chunk, (n, 3): frame, chunk, number."""
        counts = self.manifest.counts
        found: dict[str, int] = {}
        owners: list[NDArray[np.int64]] = []
        low = high = None
        if file.box is not None:
            low, high = np.asarray(file.box[0]), np.asarray(file.box[1])
            slack = _BOX * max(float((high - low).max(initial=0)), 1e-6)
            low, high = low - slack, high + slack
        for group in range(parquet.num_row_groups):
            table = points_group(parquet, group, schema.POINTS.names)
            for count, what in points_problems(table, counts):
                found[what] = found.get(what, 0) + count
            if any(table[name].null_count for name in schema.POINTS.names):
                continue
            frame, chunk = table["frame_index"].to_numpy(), table["chunk_index"].to_numpy()
            if low is not None and high is not None:
                xyz = np.stack([table[axis].to_numpy() for axis in "xyz"], -1).astype(np.float64)
                outside = int(((xyz < low) | (xyz > high)).any(axis=1).sum())
                what = "with a place outside its box in the manifest"
                found[what] = found.get(what, 0) + outside
            pairs, times = np.unique(np.stack([frame, chunk], -1).astype(np.int64), axis=0, return_counts=True)
            owners.append(np.concatenate([pairs, times[:, None]], axis=1))
        for what, rows_wrong in found.items():
            if rows_wrong:
                self.say(file.path, f"{rows_wrong:,} points {what}")
        return np.concatenate(owners) if owners else np.zeros((0, 3), np.int64)

    def _counts(self, tables: dict[str, pa.Table], shards: list[tuple[WrittenFile, NDArray[np.int64]]]) -> None:
        """Compare the manifest's numbers with the files that it names and with their rows."""
        counts, files = self.manifest.counts, self.manifest.files
        rows = sum(file.rows for file in files if kind_of(file.path) == "points")
        if rows != counts.points:
            self.say(MANIFEST, f"counts {counts.points:,} points, its shards {rows:,}")
        for kind, number in (("poses", counts.frames), ("chunks", counts.chunks), ("loops", counts.loops)):
            if kind in tables and tables[kind].num_rows != number:
                self.say(MANIFEST, f"counts {number:,} rows of {kind}, the file has {tables[kind].num_rows:,}")
        if counts.frames != counts.frames_ok + counts.frames_filled + counts.frames_missing:
            self.say(MANIFEST, f"counts {counts.frames:,} frames, but not as many ok, filled and missing together")

    def _chunk_points(self, table: pa.Table, shards: list[tuple[WrittenFile, NDArray[np.int64]]]) -> None:
        """Check that every chunk has as many points in the shards as its row says."""
        if len(shards) != len(self.manifest.point_files):
            return
        points = np.zeros(table.num_rows, np.int64)
        for _, owners in shards:
            inside = (owners[:, 1] >= 0) & (owners[:, 1] < len(points))
            np.add.at(points, owners[inside, 1], owners[inside, 2])
        wrong = points != floats(table, "points")
        for what in rows_said("chunks", "whose number of points is not that in the shards", wrong):
            self.say(_file_of(self.manifest, "chunks"), what)

    def _owners(self, poses: pa.Table, shards: list[tuple[WrittenFile, NDArray[np.int64]]]) -> None:
        """Check that each point belongs to the chunk that owns its frame, and that its frame has a pose."""
        owner = floats(poses, "chunk_index")
        for file, owners in shards:
            inside = (owners[:, 0] >= 0) & (owners[:, 0] < len(owner))
            theirs = owner[owners[inside, 0]]
            lost = owners[inside][~(theirs == owners[inside, 1])]
            if len(lost):
                frame = int(lost[0, 0])
                self.say(
                    file.path,
                    f"{int(lost[:, 2].sum()):,} points are not of the chunk that owns their frame "
                    f"(the first: frame {frame})",
                )


@contextlib.contextmanager
def _local_copy(uri: str) -> Iterator[tuple[str, str]]:
    """A path on this machine with the file's bytes, and their sha256: the file is fetched once."""
    with contextlib.ExitStack() as stack:
        path = storage.absolute(uri)
        copy = None
        if not storage.is_local(uri):
            path = str(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="verify-"))) / "file")
            copy = stack.enter_context(open(path, "wb"))
        with storage.open_input(uri) as file:
            sha256 = sha256_of(file, copy)
        if copy is not None:
            copy.flush()
        yield path, sha256


def _file_of(manifest: Manifest, kind: str) -> str:
    return next(file.path for file in manifest.files if kind_of(file.path) == kind)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]

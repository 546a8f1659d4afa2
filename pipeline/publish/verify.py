"""A published drive checked against its manifest: names and sizes, hashes, schemas, rows, ranges, links between tables.

What a check finds is a list of lines, each with the file it is about; nothing is changed. Memory is that of the drive's
poses and one row group of its points.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import schema, storage
from pipeline.errors import DriveError
from pipeline.publish.files import WrittenFile
from pipeline.publish.manifest import MANIFEST, Manifest, read_manifest

_BLOCK = 1 << 20
_REQUIRED = ("poses", "chunks", "loops")
_SMALL = (*_REQUIRED, "cameras")  # results from before it was there have none
_UNIT = 1e-6  # how far the length of a quaternion may be from 1: it was rounded to float64
_BOX = 1e-4  # of its size: how far outside its shard's box a point may be


@dataclass(frozen=True)
class Problem:
    """What is wrong: the file (a path below the drive's folder), and one line."""

    file: str
    what: str


@dataclass(frozen=True)
class DriveCheck:
    """The outcome for one drive. files, bytes: as its manifest says; seconds: that the check took."""

    drive_id: str
    problems: tuple[Problem, ...] = ()
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_drive(output: str, drive_id: str, *, quick: bool = False) -> DriveCheck:
    """Check one drive; quick: names and sizes alone, by one listing.

    Raises StorageError where the store does not answer; everything else is a problem of the drive.
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
    """The problems of one drive as they are found."""

    manifest: Manifest
    folder: str
    problems: list[Problem] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    """Files that are not there, or not with the size they had: not looked into."""

    def say(self, file: str, what: str) -> None:
        self.problems.append(Problem(file, what))

    def listing(self, there: dict[str, int]) -> None:
        """Every file named is there with its size, each once, and all that make a drive are named."""
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
        """Hashes and tables. A file whose bytes are not those published is not looked into further."""
        tables: dict[str, pa.Table] = {}
        shards: list[tuple[WrittenFile, NDArray[np.int64]]] = []
        for file in self.manifest.files:
            if file.path in self.missing:
                continue
            with _local_copy(storage.join(self.folder, *file.path.split("/"))) as (path, digest):
                if digest != file.sha256:
                    self.say(file.path, "its bytes are not those that were published (sha256 differs)")
                    continue
                kind = _kind(file.path)
                try:
                    parquet = pq.ParquetFile(path, page_checksum_verification=True)
                    if not self._fits(file, kind, parquet):
                        continue
                    if kind == "points":
                        shards.append((file, self._points(file, parquet)))
                    else:
                        tables[kind] = parquet.read()
                except (OSError, pa.ArrowException) as error:
                    self.say(file.path, f"cannot be read ({_first_line(error)})")
        self._counts(tables, shards)
        if "poses" in tables:
            self._poses(_file_of(self.manifest, "poses"), tables["poses"], tables.get("chunks"))
        if "chunks" in tables:
            self._chunks(_file_of(self.manifest, "chunks"), tables["chunks"], shards)
        if "loops" in tables:
            self._loops(_file_of(self.manifest, "loops"), tables["loops"])
        if "poses" in tables:
            self._owners(tables["poses"], shards)

    def _fits(self, file: WrittenFile, kind: str, parquet: pq.ParquetFile) -> bool:
        """Whether columns and rows are as the schema and the manifest say."""
        expected = schema.TABLES[kind]
        have = parquet.schema_arrow
        good = True
        for column in expected:
            at = have.get_field_index(column.name)
            if at < 0:
                self.say(file.path, f"has no column {column.name}")
                good = False
            elif have.field(at).type != column.type:
                self.say(file.path, f"column {column.name} is {have.field(at).type}, not {column.type}")
                good = False
        if parquet.metadata.num_rows != file.rows:
            self.say(file.path, f"has {parquet.metadata.num_rows:,} rows, not {file.rows:,}")
        return good

    def _points(self, file: WrittenFile, parquet: pq.ParquetFile) -> NDArray[np.int64]:
        """Ranges of one shard; its points by frame and chunk, as (n, 3) different frames, chunks and how many."""
        counts = self.manifest.counts
        found: dict[str, int] = {}
        owners: list[NDArray[np.int64]] = []
        low = high = None
        if file.box is not None:
            low, high = np.asarray(file.box[0]), np.asarray(file.box[1])
            slack = _BOX * max(float((high - low).max(initial=0)), 1e-6)
            low, high = low - slack, high + slack
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, columns=schema.POINTS.names)
            for name in schema.POINTS.names:
                found[f"{name} is null"] = found.get(f"{name} is null", 0) + table[name].null_count
            if any(table[name].null_count for name in schema.POINTS.names):
                continue
            xyz = np.stack([table[axis].to_numpy() for axis in "xyz"], -1).astype(np.float64)
            confidence = table["confidence"].to_numpy()
            frame, chunk = table["frame_index"].to_numpy(), table["chunk_index"].to_numpy()
            wrong = {
                "a position that is not finite": ~np.isfinite(xyz).all(axis=1),
                "a confidence that is not finite or below 1": ~(np.isfinite(confidence) & (confidence >= 1 - 1e-6)),
                f"a frame that is none of {counts.frames:,}": (frame < 0) | (frame >= counts.frames),
                f"a chunk that is none of {counts.chunks:,}": (chunk < 0) | (chunk >= counts.chunks),
            }
            if low is not None and high is not None:
                wrong["a place outside its box in the manifest"] = ((xyz < low) | (xyz > high)).any(axis=1)
            for what, rows in wrong.items():
                found[f"with {what}"] = found.get(f"with {what}", 0) + int(rows.sum())
            pairs, times = np.unique(np.stack([frame, chunk], -1).astype(np.int64), axis=0, return_counts=True)
            owners.append(np.concatenate([pairs, times[:, None]], axis=1))
        for what, rows_wrong in found.items():
            if rows_wrong:
                self.say(file.path, f"{rows_wrong:,} points {what}")
        return np.concatenate(owners) if owners else np.zeros((0, 3), np.int64)

    def _counts(self, tables: dict[str, pa.Table], shards: list[tuple[WrittenFile, NDArray[np.int64]]]) -> None:
        """The manifest's own numbers against the files it names, and against their rows."""
        counts, files = self.manifest.counts, self.manifest.files
        rows = sum(file.rows for file in files if _kind(file.path) == "points")
        if rows != counts.points:
            self.say(MANIFEST, f"counts {counts.points:,} points, its shards {rows:,}")
        for kind, number in (("poses", counts.frames), ("chunks", counts.chunks), ("loops", counts.loops)):
            if kind in tables and tables[kind].num_rows != number:
                self.say(MANIFEST, f"counts {number:,} rows of {kind}, the file has {tables[kind].num_rows:,}")
        if counts.frames != counts.frames_ok + counts.frames_filled + counts.frames_missing:
            self.say(MANIFEST, f"counts {counts.frames:,} frames, but not as many ok, filled and missing together")

    def _poses(self, path: str, table: pa.Table, chunks: pa.Table | None) -> None:
        say, counts = self._rows_sayer(path, "frames"), self.manifest.counts
        self._identity(path, table, "frame_index")
        status = np.array(table["status"].to_pylist(), dtype=object)
        say("with an unknown status", ~np.isin(status, schema.STATUSES))
        for name, number in (
            (schema.OK, counts.frames_ok),
            (schema.FILLED, counts.frames_filled),
            (schema.MISSING, counts.frames_missing),
        ):
            if int((status == name).sum()) != number:
                self.say(path, f"has {int((status == name).sum()):,} frames {name}, the manifest counts {number:,}")
        known = status != schema.MISSING
        pose = {name: _floats(table, name) for name in ("x", "y", "z", "qw", "qx", "qy", "qz", "fx", "fy", "cx", "cy")}
        finite = np.all([np.isfinite(values) for values in pose.values()], axis=0)
        say("with a pose or intrinsics that are not finite", known & ~finite)
        say("missing, but with a pose", ~known & np.isfinite(pose["x"]))
        length = np.sqrt(sum(pose[f"q{part}"] ** 2 for part in "wxyz"))
        say(
            "whose quaternion is not of length 1 with qw >= 0",
            known & finite & ((np.abs(length - 1) > _UNIT) | (pose["qw"] < -_UNIT)),
        )
        say("with a focal length that is not above zero", known & finite & ~((pose["fx"] > 0) & (pose["fy"] > 0)))
        confidence = _floats(table, "confidence")
        say("with a confidence below 1", np.isfinite(confidence) & (confidence < 1 - 1e-6))
        sizes = np.stack([_floats(table, name) for name in ("width", "height")], -1)
        say("without a size in pixels", ~(sizes >= 1).all(axis=1))
        chunk = _floats(table, "chunk_index")
        say("with a pose, but of no chunk", known & ~np.isfinite(chunk))
        number = chunks.num_rows if chunks is not None else counts.chunks
        say(f"of a chunk that is none of {number:,}", np.isfinite(chunk) & ((chunk < 0) | (chunk >= number)))

    def _chunks(self, path: str, table: pa.Table, shards: list[tuple[WrittenFile, NDArray[np.int64]]]) -> None:
        say, counts = self._rows_sayer(path, "chunks"), self.manifest.counts
        self._identity(path, table, "chunk_index")
        start, stop = _floats(table, "frame_start"), _floats(table, "frame_stop")
        say("whose frames are no range of the drive's", ~((start >= 0) & (start < stop) & (stop <= counts.frames)))
        scale = _floats(table, "scale")
        say("with a scale that is not above zero", ~(np.isfinite(scale) & (scale > 0)))
        length = np.sqrt(sum(_floats(table, f"q{part}") ** 2 for part in "wxyz"))
        say("whose quaternion is not of length 1", ~(np.abs(length - 1) <= _UNIT))
        inliers = _floats(table, "overlap_inliers")
        say("with a share of inliers that is none", np.isfinite(inliers) & ((inliers < 0) | (inliers > 1)))
        if len(shards) == len(self.manifest.point_files):
            points = np.zeros(table.num_rows, np.int64)
            for _, owners in shards:
                inside = (owners[:, 1] >= 0) & (owners[:, 1] < len(points))
                np.add.at(points, owners[inside, 1], owners[inside, 2])
            say("whose number of points is not that in the shards", points != _floats(table, "points"))

    def _loops(self, path: str, table: pa.Table) -> None:
        say, counts = self._rows_sayer(path, "loops"), self.manifest.counts
        self._identity(path, table, "loop_index")
        for which in ("first", "second"):
            start, stop = _floats(table, f"{which}_start"), _floats(table, f"{which}_stop")
            wrong = ~((start >= 0) & (start < stop) & (stop <= counts.frames))
            say(f"whose {which} window is no range of the drive's frames", wrong)
        accepted = np.array(table["accepted"].to_pylist(), dtype=bool)
        if int(accepted.sum()) != counts.loops_accepted:
            self.say(path, f"has {int(accepted.sum()):,} accepted, the manifest counts {counts.loops_accepted:,}")

    def _owners(self, poses: pa.Table, shards: list[tuple[WrittenFile, NDArray[np.int64]]]) -> None:
        """A point is of the chunk that owns its frame, and its frame has a pose."""
        owner = _floats(poses, "chunk_index")
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

    def _identity(self, path: str, table: pa.Table, number: str) -> None:
        """Rows are of this drive, numbered from 0 in order."""
        if table.num_rows and pc.any(pc.not_equal(table["drive_id"], self.manifest.drive_id)).as_py() is not False:
            self.say(path, f"has rows of another drive than {self.manifest.drive_id}")
        values = _floats(table, number)
        if not np.array_equal(values, np.arange(len(values))):
            self.say(path, f"{number} does not count 0, 1, 2 ...")

    def _rows_sayer(self, path: str, rows: str) -> Any:
        def say(what: str, wrong: NDArray[np.bool_]) -> None:
            if wrong.any():
                self.say(path, f"{int(wrong.sum()):,} {rows} {what} (the first: {int(np.flatnonzero(wrong)[0])})")

        return say


@contextlib.contextmanager
def _local_copy(uri: str) -> Iterator[tuple[str, str]]:
    """A path on this machine with the file's bytes, and their sha256: the file is fetched once."""
    digest = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        path = storage.absolute(uri)
        copy = None
        if not storage.is_local(uri):
            path = str(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="verify-"))) / "file")
            copy = stack.enter_context(open(path, "wb"))
        with storage.open_input(uri) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                if copy is not None:
                    copy.write(block)
        if copy is not None:
            copy.flush()
        yield path, digest.hexdigest()


def _kind(path: str) -> str:
    name = path.rpartition("/")[2].removesuffix(".parquet")
    return name if name in _SMALL else "points"


def _file_of(manifest: Manifest, kind: str) -> str:
    return next(file.path for file in manifest.files if _kind(file.path) == kind)


def _floats(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of numbers, null as NaN."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]

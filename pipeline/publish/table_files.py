"""Opens the Parquet files of one published drive and compares them with its manifest; errors name the file.

Sizes are always compared, pages have checksums, and small tables are hashed when they are read. With `hashed`, shards
of points are hashed before they are used; exports do that. A returned table has the columns, types and rows of
pipeline.schema, with values within their ranges.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.common.hashing import sha256_of
from pipeline.errors import DriveError, PipelineError, StorageError
from pipeline.publish.files import WrittenFile
from pipeline.publish.manifest import MAKE_AGAIN, Manifest, read_manifest
from pipeline.publish.table_checks import (
    LARGEST_TABLE_BYTES,
    UNREADABLE,
    footer_problems,
    kind_of,
    open_parquet,
    points_group,
    points_problems,
    read_whole,
    row_problems,
)


@dataclass(frozen=True)
class TableFiles:
    """uri: of the drive's folder; manifest: of its result; hashed: whether shards are hashed when first opened."""

    uri: str
    manifest: Manifest
    hashed: bool = False
    _good: set[str] = field(default_factory=set, compare=False)

    def table(self, name: str) -> pa.Table:
        """A small table. Raises DriveError where it is not the one that was published; StorageError."""
        file = next((one for one in self.manifest.files if one.path.rpartition("/")[2] == name), None)
        if file is None:
            raise DriveError(f"drive {self.manifest.drive_id}: its manifest names no {name}; {MAKE_AGAIN}")
        if file.size > LARGEST_TABLE_BYTES:
            raise self._damaged(file, f"has {file.size:,} bytes, at most {LARGEST_TABLE_BYTES:,} are read")
        try:
            data = storage.read_bytes(self._place(file), file.size + 1)
        except storage.NotFoundError as error:
            return self._moved(file, error).table(name)
        if len(data) > file.size:
            self._check_size(file, storage.stored_file(self._place(file)).size)
        self._check_size(file, len(data))
        self._check_hash(file, hashlib.sha256(data).hexdigest())
        kind = kind_of(file.path)
        with self.reading(file):
            self._refuse(file, footer_problems(open_parquet(pa.BufferReader(data)), kind, file.rows))
            table = read_whole(data)
            self._refuse(file, row_problems(kind, table, self.manifest.drive_id, self.manifest.counts))
        counts = self.manifest.counts
        counted = {"poses": counts.frames, "chunks": counts.chunks, "loops": counts.loops}.get(kind, table.num_rows)
        if table.num_rows != counted:
            raise self._damaged(file, f"has {table.num_rows:,} rows, the manifest counts {counted:,}")
        return table

    @contextlib.contextmanager
    def open(self, file: WrittenFile) -> Iterator[pq.ParquetFile]:
        """A shard, to read row groups from (inside `reading`). Raises DriveError, StorageError."""
        place = self._place(file)
        # Local files are opened by name: pyarrow then reads them without Python code in between. From other stores, the
        # columns of a row group are fetched in one request, and nothing more is fetched.
        local = storage.is_local(place)
        with contextlib.ExitStack() as stack:
            try:
                source: str | BinaryIO
                if local:
                    source, size = storage.absolute(place), storage.stored_file(place).size
                else:
                    source = storage.open_input(place, readahead=False)
                    size = source.seek(0, io.SEEK_END)
            except storage.NotFoundError as error:
                moved = self._moved(file, error)
                same = next(one for one in moved.manifest.files if one.sha256 == file.sha256)
                yield stack.enter_context(moved.open(same))
                return
            self._check_size(file, size)
            if self.hashed and file.path not in self._good:
                source = self._hashed(file, source, stack)
            with self.reading(file):
                parquet = stack.enter_context(open_parquet(source, pre_buffer=not local))
                self._refuse(file, footer_problems(parquet, "points", file.rows))
            yield parquet

    def row_group(self, file: WrittenFile, parquet: pq.ParquetFile, number: int, columns: Sequence[str]) -> pa.Table:
        """Rows of an open shard. Raises DriveError where they cannot be points of this drive, StorageError."""
        with self.reading(file):
            table = points_group(parquet, number, columns)
            wrong = points_problems(table, self.manifest.counts)
            self._refuse(file, (f"has {count:,} points {what}" for count, what in wrong))
        return table

    @contextlib.contextmanager
    def reading(self, file: WrittenFile) -> Iterator[None]:
        """Turns pyarrow's errors about damaged bytes into a DriveError that names the file."""
        try:
            yield
        except PipelineError:
            raise
        except (*UNREADABLE, ValueError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise self._damaged(file, f"cannot be read ({said})") from None

    def _hashed(self, file: WrittenFile, source: str | BinaryIO, stack: contextlib.ExitStack) -> str | BinaryIO:
        """The same file after a check of its hash; a file of a store is fetched once, into a temporary file."""
        if isinstance(source, str):
            with storage.open_input(source) as local:
                self._check_hash(file, sha256_of(local))
            self._good.add(file.path)  # not for a remote file: it is fetched, and so hashed, again
            return source
        source.seek(0)
        copy = stack.enter_context(tempfile.TemporaryFile(prefix="shard-"))  # noqa: SIM115 (the stack closes it)
        self._check_hash(file, sha256_of(source, copy))
        copy.seek(0)
        return copy

    def _refuse(self, file: WrittenFile, problems: Iterator[str]) -> None:
        """DriveError with the first problem, where there is one."""
        for problem in problems:
            raise self._damaged(file, problem)

    def _check_size(self, file: WrittenFile, size: int) -> None:
        if size != file.size:  # two versions of a drive are never mixed in one answer
            raise self._damaged(
                file, f"has {size:,} bytes, not {file.size:,}: if a newer version took its place open it again, else"
            )

    def _check_hash(self, file: WrittenFile, digest: str) -> None:
        if digest != file.sha256:
            raise self._damaged(file, "does not hold the bytes that were published (sha256 differs);")

    def _damaged(self, file: WrittenFile, what: str) -> DriveError:
        end = "" if what.endswith(("else", ";")) else ";"
        return DriveError(
            f"drive {self.manifest.drive_id}: {file.path} named by its manifest {what}{end} {MAKE_AGAIN} "
            "(jobs.verify checks whole outputs)"
        )

    def _moved(self, file: WrittenFile, error: StorageError) -> TableFiles:
        """The same version if its files have their usual names by now. Raises DriveError where the version is gone."""
        now = read_manifest(*storage.parent_and_name(self.uri))
        same = now.published_at == self.manifest.published_at and now.files != self.manifest.files
        if not same or not any(one.sha256 == file.sha256 for one in now.files):
            raise self._damaged(file, f"is gone ({error})") from None
        return TableFiles(self.uri, now, self.hashed)

    def _place(self, file: WrittenFile) -> str:
        return storage.join(self.uri, *file.path.split("/"))

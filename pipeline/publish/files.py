"""Publishes a finished local file: measures its size and hash, uploads it, and removes the local copy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline import schema, storage
from pipeline.common.hashing import sha256_of
from pipeline.storage.retry import patiently

TABLE_PATH = (
    rf"(?:(?:{'|'.join(name for name in schema.TABLES if name != 'points')})\.parquet|points/part-\d{{5,}}\.parquet)"
)
"""Pattern of the path of every table of a drive, below the drive's folder or a version's."""

VERSION_FOLDER = r"_version-[0-9a-f]{12}"
"""Pattern of the folder that a new version is written to first (pipeline.publish.versions)."""

Box = tuple[tuple[float, ...], tuple[float, ...]]
"""Lowest and highest corner, ((x, y, z), (x, y, z)); both belong to the box."""


@dataclass(frozen=True)
class WrittenFile:
    """A file of a published drive. path: relative to the drive's folder; size in bytes; rows of its table;
    box: of the points in it, None for other tables."""

    path: str
    size: int
    sha256: str
    rows: int
    box: Box | None = None


def publish_file(local: Path, uri: str, path: str, *, rows: int, box: Box | None = None) -> WrittenFile:
    """Upload `local` to `uri` (under another name first where the store can rename, else in one PUT), remove
    it, and say what was written. If the store does not answer, it is tried again for some twenty seconds. Raises
    StorageError."""
    with local.open("rb") as file:
        written = WrittenFile(path, local.stat().st_size, sha256_of(file), rows, box)
    patiently(lambda: storage.upload(str(local), uri))
    local.unlink()
    return written

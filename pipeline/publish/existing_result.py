"""Examines what an output contains under a drive's name, and decides whether the drive is to be made.

Files that a manifest names may be missing: one listing of the drive's folder shows which are there, with their sizes.
Files with the names of a result may belong to somebody else: only files that this program made are replaced.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from pipeline import schema, storage
from pipeline.common.secrets import without_credentials
from pipeline.errors import DriveError
from pipeline.publish.drive_facts import ListedFile
from pipeline.publish.files import TABLE_PATH, VERSION_FOLDER
from pipeline.publish.manifest import MANIFEST, Manifest, find_manifest, input_files
from pipeline.publish.table_checks import UNREADABLE, open_parquet

_TABLE = re.compile(TABLE_PATH)
_BEGINS_AS_OURS = re.compile(rb'\s*\{\s*"schema_version":\s*\d+,\s*"drive_id":\s*"([^"]+)"')
_HEAD_BYTES = 4096
_ID_SEPARATOR = "__"


class NameTakenError(DriveError):
    """The drive's name in the output is taken: by a result of another input, or by files of the user."""


@dataclass(frozen=True)
class ExistingResult:
    """The state of a drive's folder. manifest: of the existing result, None where there is none or it cannot be read;
    lost: a line for each of its files that is missing or has another size; damaged: why our manifest cannot be read."""

    manifest: Manifest | None = None
    lost: tuple[str, ...] = ()
    damaged: str | None = None

    @property
    def is_there(self) -> bool:
        """Whether a result exists, complete or damaged."""
        return self.manifest is not None or self.damaged is not None


def look_at(output: str, drive_id: str) -> ExistingResult:
    """The state of a drive's folder in the output. Reads one listing, and the manifest if there is one; more only if
    there are files that no manifest names.

    Raises DriveError where a result would replace a file that this program did not make, or where the existing result
    has a newer schema; StorageError.
    """
    folder = storage.join(output, storage.check_drive_id(drive_id))
    there = storage.list_below(folder)
    existing = ExistingResult()
    if MANIFEST in there:
        existing = _read(output, drive_id, folder, there)
    named = {file.path for file in existing.manifest.files} if existing.manifest else set()
    for path in there:
        if _TABLE.fullmatch(path) and path not in named and there[path] and not made_by_us(storage.join(folder, path)):
            raise _foreign(folder, path)
    return existing


def _read(output: str, drive_id: str, folder: str, there: dict[str, int]) -> ExistingResult:
    try:
        manifest = find_manifest(output, drive_id)
    except DriveError as error:
        if not _is_our_manifest(folder, drive_id, there):
            raise _foreign(folder, MANIFEST) from None
        return ExistingResult(damaged=str(error))
    if manifest is None:  # it was removed after the listing
        return ExistingResult()
    lost = []
    for file in manifest.files:
        size = there.get(file.path)
        if size is None:
            lost.append(f"{file.path} is gone")
        elif size != file.size:
            lost.append(f"{file.path} has {size:,} bytes, not {file.size:,}")
    return ExistingResult(manifest, tuple(lost))


def _is_our_manifest(folder: str, drive_id: str, there: dict[str, int]) -> bool:
    """Whether an unreadable manifest is ours: it begins as our manifests do, or our tables are beside it."""
    if not there[MANIFEST]:
        return True  # it is empty, so nothing is lost
    head = storage.read_bytes(storage.join(folder, MANIFEST), _HEAD_BYTES)
    begins = _BEGINS_AS_OURS.match(head)
    if begins is not None and begins.group(1).decode(errors="replace") == drive_id:
        return True
    tables = [path for path in there if re.fullmatch(rf"(?:{VERSION_FOLDER}/)?{TABLE_PATH}", path)]
    return any(made_by_us(storage.join(folder, path)) for path in tables[:3])


def made_by_us(uri: str) -> bool:
    """Whether a Parquet file has the marks in its footer that each of our tables has. Raises StorageError."""
    local = storage.is_local(uri)
    try:
        source = storage.absolute(uri) if local else storage.open_input(uri, readahead=False)
        marks = open_parquet(source).schema_arrow.metadata or {}
    except UNREADABLE:
        return False
    if marks.get(schema.MADE_BY_KEY.encode()) == schema.MADE_BY.encode():
        return True
    # Older results have no such mark: they are recognised by their title and the description of their world.
    own = (b"title", b"world_frame")
    return any(all(marks.get(key) == table.metadata[key] for key in own) for table in schema.TABLES.values())


def _foreign(folder: str, path: str) -> NameTakenError:
    return NameTakenError(
        f"{storage.redacted(folder)} holds {path}, which this program did not make and a result would replace; "
        "give another --output, or another name to the drive (--drive-id), or move that file away"
    )


@dataclass(frozen=True)
class Decision:
    """done: the result exists, is complete and has the wanted identity; replaces: the new result replaces an existing
    one; why: a reason for the user, if the drive is not simply made for the first time."""

    done: bool
    replaces: bool = False
    why: str | None = None
    existing: ExistingResult = ExistingResult()


@dataclass(frozen=True)
class Source:
    """The input of the wanted result. sample: see pipeline.ingest.content_sample; it is computed only where names and
    sizes do not distinguish inputs."""

    uri: str
    listing: Iterable[ListedFile]
    sample: Callable[[], str | None] = lambda: None


def decide(
    output: str,
    drive_id: str,
    identity: str,
    source: Source,
    *,
    overwrite: bool,
    of_many: bool = False,
    same: Callable[[], Iterable[str]] = tuple,
) -> Decision:
    """Whether a drive is to be made. same: gives further identities of the same result; it is called only if the
    existing result has another identity than the wanted one.

    Raises DriveError where the name belongs to another input, or to a result that cannot be read (both may be replaced
    with `overwrite`), or to files that this program did not make (never replaced); StorageError.
    """
    existing = look_at(output, drive_id)
    if overwrite or not existing.is_there:
        return Decision(False, existing.is_there, None, existing)
    if existing.manifest is None:
        raise DriveError(str(existing.damaged))
    relation = same_input(existing.manifest, source)
    if relation == "other":
        raise _clash(output, drive_id, existing.manifest, source, of_many)
    if existing.lost:
        more = f" and {len(existing.lost) - 1} more" if len(existing.lost) > 1 else ""
        return Decision(False, True, f"its result is damaged ({existing.lost[0]}{more}): making it again", existing)
    if existing.manifest.identity != identity and existing.manifest.identity not in same():
        return Decision(False, True, "was made from other input, weights or settings: doing it again", existing)
    return Decision(True, False, None, existing)


def is_whole(output: str, drive_id: str, identity: str) -> bool:
    """Whether a drive's result has this identity and every file that its manifest names. Raises DriveError,
    StorageError."""
    existing = look_at(output, drive_id)
    return existing.manifest is not None and existing.manifest.identity == identity and not existing.lost


def same_input(manifest: Manifest, source: Source) -> Literal["same", "other"]:
    """Whether a result was made from this input: from the same place (its content may differ), or from a copy of it."""
    recorded = manifest.input.get("uri")
    if not recorded or _place(str(recorded)) == _place(without_credentials(source.uri)):
        return "same"
    now = input_files(source.listing)
    if list(manifest.input_files) != now:
        return "other"
    if all(file["etag"] for file in now):
        return "same"
    then = manifest.input.get("sample")
    return "same" if then is None or then == source.sample() else "other"


def _place(uri: str) -> str:
    """A URI for comparison: links on a disk are followed; KITTI's camera folder counts as the sequence above it."""
    uri = re.sub(r"^s3a://", "s3://", uri.rstrip("/"))
    if storage.is_local(uri):
        uri = os.path.realpath(storage.absolute(uri))
    return re.sub(r"/image_\d+$", "", uri)


def _clash(output: str, drive_id: str, there: Manifest, source: Source, of_many: bool) -> NameTakenError:
    theirs, ours = str(there.input.get("uri")), without_credentials(source.uri)
    other = longer_id(drive_id, ours, theirs)
    remedy = (
        f"give another --output, or name this one in a drive list ({other})"
        if of_many
        else f"give this one a name of its own (--drive-id {other})"
    )
    return NameTakenError(
        f"drive {drive_id}: {storage.redacted(output)} holds another drive of this name, made from {theirs}; this "
        f"input is {ours}: {remedy}, or replace the other with --overwrite"
    )


def longer_id(drive_id: str, uri: str, other_uri: str) -> str:
    """An id that begins with enough of the path to differ from the id of another input of the same name."""
    parts, others = _parts(uri), _parts(other_uri)
    for count in range(2, len(parts) + 1):
        if parts[-count:] != others[-count:]:
            name = _ID_SEPARATOR.join([*parts[-count:-1], drive_id])[-storage.DRIVE_ID_LENGTH :].lstrip("._")
            if name != drive_id:
                return name
    return f"{drive_id[: storage.DRIVE_ID_LENGTH - 2]}-2"


def _parts(uri: str) -> list[str]:
    path = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://", "", _place(uri))
    return [cleaned for part in path.split("/") if (cleaned := re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("._-"))]

"""The manifest lists the input and the files of a published drive. A drive without a manifest is not published."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import PurePath

import numpy as np

from pipeline import storage
from pipeline.common.secrets import without_credentials
from pipeline.errors import DriveError
from pipeline.publish.drive_facts import Json, ListedFile
from pipeline.publish.files import TABLE_PATH, VERSION_FOLDER, WrittenFile
from pipeline.publish.manifest_shape import (
    Finding,
    Georeference,
    check_georeference,
    check_input,
    check_quality,
    findings_of,
    georeference_of,
)
from pipeline.schema import SCHEMA_VERSION

MANIFEST = "manifest.json"
MAKE_AGAIN = "--overwrite makes it again (of many drives with --only ID)"
"""The advice in every message about a damaged result."""

_CHECKSUM = "checksum"  # sha256 of all other values, by which damage to the manifest itself is found
_ALWAYS = frozenset(("weights_sha256",))  # other values that are None are left out, as in older manifests
_FILE_PATH = re.compile(rf"(?:{VERSION_FOLDER}/)?{TABLE_PATH}")


@dataclass(frozen=True)
class Counts:
    """Numbers for a summary. path_length in world units; frames = frames_ok + frames_filled + frames_missing;
    frames_still: those of frames_filled that were left out because the car stood."""

    frames: int
    frames_ok: int
    frames_filled: int
    frames_missing: int
    chunks: int
    loops: int
    loops_accepted: int
    points: int
    path_length: float
    frames_still: int = 0


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json. input: {"uri", "files": [{"name", "size", "etag"}]}; timings: seconds by stage;
    files: exactly those that belong to the result, with paths relative to the drive's folder."""

    schema_version: int
    drive_id: str
    identity: str
    published_at: str
    input: Mapping[str, Json]
    weights_sha256: str | None
    config: Mapping[str, Json]
    code_version: str
    counts: Counts
    timings: Mapping[str, float]
    quality: Mapping[str, Json]
    files: tuple[WrittenFile, ...]
    georeference: Mapping[str, Json] | None = None
    """For a drive in metres east, north and up: origin, datum, clock, number of fixes. None for a relative drive."""
    metric: Mapping[str, Json] | None = None
    """What made the unit a metre, with its relative standard deviation; None where the unit is the network's own."""

    @property
    def point_files(self) -> tuple[WrittenFile, ...]:
        """The shards of the point cloud, in drive order."""
        return tuple(file for file in self.files if file.path.split("/")[-2:-1] == ["points"])

    @property
    def turn(self) -> int | None:
        """Degrees by which stored frames were turned to the right; None: as EXIF or the video says. Results from before
        this setting existed have 0: frames were taken as they are stored."""
        turn = self.config.get("rotate", 0)
        return turn if isinstance(turn, int) else None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The reasons of the verdict."""
        return findings_of(self.quality, self.drive_id)

    @property
    def place(self) -> Georeference | None:
        """The drive's place on Earth; None for a relative drive."""
        return None if self.georeference is None else georeference_of(self.georeference, self.drive_id)

    @property
    def input_files(self) -> Sequence[Mapping[str, Json]]:
        """name, size and etag of every file of the drive's input."""
        files = self.input.get("files")
        return files if isinstance(files, Sequence) else ()

    def to_bytes(self) -> bytes:
        """The text of manifest.json."""
        values = {
            name: value for name, value in plain_object(asdict(self)).items() if value is not None or name in _ALWAYS
        }
        return (json.dumps({**values, _CHECKSUM: _checksum(values)}, indent=1, allow_nan=False) + "\n").encode()

    @staticmethod
    def from_bytes(data: bytes, name: str) -> Manifest:
        """Parse the text of `to_bytes`. name: whose manifest it is, for errors. Raises DamagedError; DriveError for a
        newer schema."""
        what = f"{name}: expected a {MANIFEST}, got something else"
        try:
            version = storage.parse_record(data, _Versioned, what).schema_version
            if version <= SCHEMA_VERSION:
                manifest = _checked(storage.parse_record(data, Manifest, what), what)
                values = json.loads(data)
                checksum = values.pop(_CHECKSUM, None)  # older results have none
                if checksum is not None and checksum != _checksum(values):
                    raise storage.DamagedError(f"{name}: {MANIFEST} is not as it was written (its checksum differs)")
                return manifest
        except ValueError as error:  # also for numbers that are not finite
            raise storage.DamagedError(f"{error}; {MAKE_AGAIN}") from None
        raise DriveError(
            f"{name}: its schema version {version} is newer than {SCHEMA_VERSION}, the newest this "
            f"program reads; update the program"
        )

    def check_names(self, drive_id: str, name: str) -> None:
        """Raises DriveError where the manifest belongs to another drive than its folder, or names files that a drive
        cannot have: its paths must not lead outside the drive's folder. name: whose manifest it is, for errors."""
        if self.drive_id != drive_id:
            raise DriveError(
                f"{name}: its {MANIFEST} is of drive {str(self.drive_id)[:140]!r}; a result is used under the "
                f"name that it was made with: give the folder that name again, or {MAKE_AGAIN}"
            )
        for file in self.files:
            if not _FILE_PATH.fullmatch(str(file.path)):
                path = str(file.path)[:140]
                raise DriveError(f"{name}: its {MANIFEST} names {path!r}, no file of a drive; {MAKE_AGAIN}")


def _checksum(values: Mapping[str, Json]) -> str:
    return hashlib.sha256(_json(values)).hexdigest()


@dataclass(frozen=True)
class _Versioned:
    schema_version: int


def _checked(manifest: Manifest, what: str) -> Manifest:
    """The manifest itself. Raises DamagedError where its numbers and parts do not fit together."""
    counts = manifest.counts
    if min(asdict(counts).values()) < 0 or counts.frames != (
        counts.frames_ok + counts.frames_filled + counts.frames_missing
    ):
        raise storage.DamagedError(f"{what}: field counts: expected numbers that add up, got {asdict(counts)}")
    if counts.chunks > counts.frames:
        raise storage.DamagedError(
            f"{what}: field counts.chunks: expected at most {counts.frames}, got {counts.chunks}"
        )
    if manifest.schema_version < 1 or not manifest.files:
        raise storage.DamagedError(f"{what}: expected a schema version above 0 and files")
    for file in manifest.files:
        if min(file.size, file.rows) < 0 or (file.box is not None and [len(corner) for corner in file.box] != [3, 3]):
            raise storage.DamagedError(f"{what}: files: size, rows or box of {file.path[:140]!r} cannot be")
    try:
        datetime.fromisoformat(manifest.published_at).timestamp()
    except (ValueError, OverflowError):
        said = manifest.published_at[:40]
        raise storage.DamagedError(f"{what}: field published_at: expected a time (ISO 8601), got {said!r}") from None
    rotation = manifest.config.get("rotate", 0)
    if rotation not in (None, 0, 90, 180, 270):
        raise storage.DamagedError(
            f"{what}: field config.rotate: expected 0, 90, 180 or 270, got {str(rotation)[:40]!r}"
        )
    check_input(manifest.input, what)
    check_georeference(manifest.georeference, what)
    check_quality(manifest.quality, counts.frames, what)
    return manifest


def drive_identity(listing: Iterable[ListedFile], weights_sha256: str | None, config: Mapping[str, Json]) -> str:
    """The hash (64 hex digits) of input, weights, settings and schema, by which a result is recognised.

    The order of the listing does not matter. config: only settings that change the result. A setting that does not
    (workers, budgets, where to write) must not be in it, else a change of it would make the drive again.
    """
    rows = listing.json_rows() if isinstance(listing, storage.Listing) else None
    if rows is None:
        rows = _json(sorted(_rows(listing)))[1:-1]
    parts = {
        "config": _json(plain(config)),
        "listing": b"[" + rows + b"]",
        "schema_version": _json(SCHEMA_VERSION),
        "weights_sha256": _json(weights_sha256),
    }
    text = b",".join(_json(name) + b":" + part for name, part in parts.items())
    return hashlib.sha256(b"{" + text + b"}").hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _rows(listing: Iterable[ListedFile]) -> Iterator[tuple[str, int, str]]:
    """Name, size, etag of every file."""
    if isinstance(listing, storage.Listing):
        names, sizes, etags = listing.columns()
        return zip(names, sizes, (etag or "" for etag in etags), strict=True)
    return ((file.name, file.size, file.etag or "") for file in listing)


def input_listing(source_uri: str, listing: Iterable[ListedFile], sample: str | None = None) -> dict[str, Json]:
    """The manifest's `input`. sample: a hash of parts of the files, where names, sizes and etags do not distinguish
    drives."""
    sampled = {} if sample is None else {"sample": sample}
    return {"uri": without_credentials(source_uri), "files": input_files(listing), **sampled}


def input_files(listing: Iterable[ListedFile]) -> list[dict[str, str | int | None]]:
    """name, size, etag of every file, as the manifest's `input` has them."""
    return [{"name": name, "size": size, "etag": etag or None} for name, size, etag in _rows(listing)]


def now() -> str:
    """The time, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_manifest(output: str, drive_id: str) -> Manifest:
    """The manifest of a finished drive. Raises DriveError where there is none, or it is damaged or of a newer schema;
    StorageError where the store does not answer."""
    manifest = find_manifest(output, drive_id)
    if manifest is not None:
        return manifest
    shown = without_credentials(output)
    if storage.exists(storage.join(output, drive_id)):
        raise DriveError(f"drive {drive_id} in {shown} is not finished: it has no {MANIFEST}; reconstruct it again")
    raise DriveError(f"no drive {drive_id} in {shown}; check the name and the output's URI")


def is_published(output: str, drive_id: str, identity: str | None = None) -> bool:
    """Whether the drive has a manifest and, if `identity` is given, whether its identity is this one.

    Raises DriveError for a manifest that is damaged or of a newer schema: neither may be overwritten without
    `overwrite`.
    """
    manifest = find_manifest(output, drive_id)
    return manifest is not None and identity in (None, manifest.identity)


def find_manifest(output: str, drive_id: str) -> Manifest | None:
    """The manifest of a drive, None where there is none; raises what is_published raises."""
    uri = storage.join(output, storage.check_drive_id(drive_id), MANIFEST)
    try:
        data = storage.read_small(uri, storage.LISTED_BYTES)
    except storage.NotFoundError:
        return None
    name = f"drive {drive_id} in {without_credentials(output)}"
    manifest = Manifest.from_bytes(data, name)
    manifest.check_names(drive_id, name)
    return manifest


def plain_object(values: Mapping[str, object]) -> dict[str, Json]:
    """`plain` for a mapping."""
    return {str(key): plain(one) for key, one in values.items()}


def plain(value: object) -> Json:
    """A value that json can write: arrays and tuples become lists, paths become text, numbers that are not finite
    become null; credentials are removed from URIs. Raises TypeError for other types."""
    if isinstance(value, str | PurePath):
        return without_credentials(str(value))
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        return plain_object(value)
    if isinstance(value, Sequence | set | frozenset):
        return [plain(one) for one in (sorted(value) if isinstance(value, set | frozenset) else value)]
    raise TypeError(f"cannot store a {type(value).__name__} in {MANIFEST}: {value!r}")

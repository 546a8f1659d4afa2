"""The versions of a city on storage, `<output>/_city/<version>/`. A version is complete once its manifest exists.

Versions are rising numbers. A manifest names every file of its version by the path below `_city/`: a tile that did not
change stays in the folder of the version that wrote it. Files that neither the newest version nor the one before it
names are removed, old manifests first. So a reader that has opened one of these two versions can continue.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.fuse.city_schema import CITY_SCHEMA_VERSION
from pipeline.leases import Guard

CITY_FOLDER = "_city"
MANIFEST = "manifest.json"
_VERSION = re.compile(r"\d{6,}")
_FILE = re.compile(
    r"\d{6,}/(?:(?:drives|poses|links|change|changes)\.parquet"
    r"|tiles/[A-Za-z0-9.-][A-Za-z0-9._-]*/-?\d+_-?\d+\.(?:parquet|copc\.laz)"
    r"|change/[A-Za-z0-9.-][A-Za-z0-9._-]*/-?\d+_-?\d+_\d+\.jpg)"
)
_OURS = re.compile(rf"(?:{_FILE.pattern}|\d{{6,}}/{MANIFEST.replace('.', '[.]')})")
_PARTIAL = re.compile(r"(?:.*/)?\.[A-Za-z0-9._-]+\.[0-9a-f]{32}\.tmp")


@dataclass(frozen=True)
class CityFile:
    """A file of a city. path: below `_city/`; size: bytes; box: lowest and highest corner of a tile's points, in its
    frame."""

    path: str
    size: int
    sha256: str
    rows: int
    box: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None


@dataclass(frozen=True)
class Tile:
    """A square of a frame. x, y: its number along the frame's horizontal axes; drives: names of the drives that were
    used for it, whether or not the file has points of theirs; names: drive names by the drive_index in its file; copc:
    the same points as COPC, None without."""

    frame: str
    x: int
    y: int
    file: CityFile
    drives: tuple[str, ...]
    names: Mapping[str, str]
    copc: CityFile | None = None

    @property
    def place(self) -> tuple[str, int, int]:
        """Frame, x, y."""
        return self.frame, self.x, self.y

    @property
    def files(self) -> tuple[CityFile, ...]:
        """Its files: one, or two with COPC."""
        return (self.file,) if self.copc is None else (self.file, self.copc)


@dataclass(frozen=True)
class FrameOf:
    """A coordinate frame of the city: its name; whether its axes are metres east, north, up; the sides of its tiles and
    of its cubes (voxels), in its units."""

    name: str
    on_earth: bool
    tile: float
    voxel: float


@dataclass(frozen=True)
class CityManifest:
    """The contents of a version. origin: latitude, longitude, altitude of the frame `earth`; keys: identity of the
    result of each drive that took part, by the drive's name; notes: warnings, and drives that were left out; seconds:
    duration of each stage."""

    schema_version: int
    version: str
    published_at: str
    code_version: str
    origin: tuple[float, float, float] | None
    frames: tuple[FrameOf, ...]
    keys: Mapping[str, str]
    files: tuple[CityFile, ...]
    tiles: tuple[Tile, ...]
    notes: tuple[str, ...]
    counts: Mapping[str, int]
    seconds: Mapping[str, float]

    def to_bytes(self) -> bytes:
        """The text of manifest.json."""
        values = asdict(self)
        return (json.dumps({**values, "checksum": _checksum(values)}, indent=1, allow_nan=False) + "\n").encode()

    @staticmethod
    def from_bytes(data: bytes, name: str) -> CityManifest:
        """Parse a manifest; name: the city, for messages. Raises DamagedError if it is not as it was written, and
        DriveError if a newer program wrote it."""
        what = f"{name}: expected the {MANIFEST} of a city, got something else"
        try:
            values = json.loads(data)
            checksum = values.pop("checksum")
            newer = int(values["schema_version"]) > CITY_SCHEMA_VERSION
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise storage.DamagedError(what) from None
        if newer:
            raise DriveError(f"{name}: its schema is newer than {CITY_SCHEMA_VERSION}; update the program")
        if checksum != _checksum(values):
            raise storage.DamagedError(f"{name}: {MANIFEST} is not as it was written (its checksum differs)")
        manifest = storage.parse_record(json.dumps(values).encode(), CityManifest, what)
        for path in manifest.paths:
            if not _FILE.fullmatch(path):
                raise storage.DamagedError(f"{name}: {MANIFEST} names {path[:140]!r}, which is not a file of a city")
        return manifest

    @property
    def every_file(self) -> tuple[CityFile, ...]:
        """All files that it names."""
        return (*self.files, *(one for tile in self.tiles for one in tile.files))

    @property
    def paths(self) -> frozenset[str]:
        """Paths below `_city/` of all files that it names."""
        return frozenset(file.path for file in self.every_file)


def _checksum(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def city_uri(output: str) -> str:
    """The folder of an output's city."""
    return storage.join(output, CITY_FOLDER)


def versions_of(output: str) -> list[str]:
    """Names of the version folders, oldest first, whether they are complete or not. Raises StorageError."""
    try:
        return sorted((one for one in storage.list_folders(city_uri(output)) if _VERSION.fullmatch(one)), key=int)
    except storage.NotFoundError:
        return []


def read_version(output: str, version: str) -> CityManifest | None:
    """The manifest of a version; None if the version is not complete. Raises DamagedError, DriveError, StorageError."""
    name = f"city {version} in {storage.redacted(output)}"
    try:
        data = storage.read_small(storage.join(city_uri(output), version, MANIFEST), storage.LISTED_BYTES)
    except storage.NotFoundError:
        return None
    manifest = CityManifest.from_bytes(data, name)
    if manifest.version != version:
        raise storage.DamagedError(f"{name}: its {MANIFEST} is of version {manifest.version[:40]!r}")
    return manifest


def newest_version(output: str) -> CityManifest | None:
    """Manifest of the newest complete version, None if there is none. Raises DamagedError, DriveError, StorageError."""
    for version in reversed(versions_of(output)):
        manifest = read_version(output, version)
        if manifest is not None:
            return manifest
    return None


def readable_versions(output: str) -> tuple[tuple[CityManifest, ...], tuple[str, ...]]:
    """The newest two complete versions, the newest first, and what is wrong with damaged ones beside them, in words.
    Raises DriveError for a version of a newer schema; StorageError."""
    found: list[CityManifest] = []
    damaged: list[str] = []
    for version in reversed(versions_of(output)):
        try:
            manifest = read_version(output, version)
        except storage.DamagedError as error:
            damaged.append(" ".join(str(error).split()))
            continue
        if manifest is not None:
            found.append(manifest)
        if len(found) == 2:
            break
    return tuple(found), tuple(damaged)


def missing_file(output: str, manifest: CityManifest) -> str | None:
    """The path of a file that a version names and that is not there, or has another size; None if all are there. Raises
    StorageError."""
    there = storage.list_below(city_uri(output))
    return next((file.path for file in manifest.every_file if there.get(file.path) != file.size), None)


def next_version(output: str) -> str:
    """The name of the next version, whose folder does not exist yet. Raises StorageError."""
    known = versions_of(output)
    return f"{int(known[-1]) + 1 if known else 1:06d}"


def publish_version(output: str, manifest: CityManifest, before: CityManifest | None, guard: Guard) -> None:
    """Write the manifest, which makes the version visible, and remove files that no reader needs any more.

    before: the version that stays readable; guard: is called before each write and raises if the lease is lost.
    Raises StorageError, also if a file that the manifest names is missing or has another size.
    """
    path = missing_file(output, manifest)
    if path is not None:
        raise storage.NotFoundError(
            f"city {manifest.version}: {path} was written and is missing or has another size now; run jobs.fuse again"
        )
    guard()
    place = storage.join(city_uri(output), manifest.version, MANIFEST)
    storage.write_bytes_atomically(place, manifest.to_bytes())
    guard()
    remove_leftovers(output, manifest, before)


def remove_leftovers(output: str, *kept: CityManifest | None) -> None:
    """Remove the files of all versions except `kept` and the files that these name. Files that are not a city's stay.
    Raises StorageError."""
    named = {path for one in kept if one is not None for path in one.paths}
    named |= {f"{one.version}/{MANIFEST}" for one in kept if one is not None}
    there = storage.list_below(city_uri(output))
    gone = [path for path in there if path not in named and (_OURS.fullmatch(path) or _PARTIAL.fullmatch(path))]
    manifests = [path for path in gone if path.endswith(MANIFEST)]
    for part in (manifests, [path for path in gone if not path.endswith(MANIFEST)]):
        if part:
            storage.remove_below(city_uri(output), part)


def with_seconds(manifest: CityManifest, seconds: Mapping[str, float]) -> CityManifest:
    """The manifest with the durations of the stages."""
    return replace(manifest, seconds={name: round(value, 3) for name, value in seconds.items()})

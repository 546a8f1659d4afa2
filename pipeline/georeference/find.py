"""Finds a drive's positions: a given file, files beside its frames, its video, or its pictures. Only what is needed to
find and identify them is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from pipeline import storage
from pipeline.common.secrets import without_credentials
from pipeline.errors import DriveError
from pipeline.georeference.comma2k19 import is_segment
from pipeline.georeference.config import NONE, PositionsConfig
from pipeline.georeference.photographs import HEADER_BYTES, exif_position
from pipeline.georeference.video_telemetry import is_video, telemetry_kind
from pipeline.ingest.drives import Drive
from pipeline.ingest.positions_names import TABLES, TRACKS, is_positions_name, is_speed_name
from pipeline.ingest.video import FRAME_MARK

Kind = Literal["file", "oxts", "comma2k19", "telemetry", "exif"]

_OF_A_FLEET = (*TRACKS, *TABLES)
_MOST_BYTES = 256 << 20
_FIRST_PICTURES = 3  # pictures in which a position is looked for: the first may be a bad frame


@dataclass(frozen=True)
class PositionsSource:
    """kind: of the files; uris: files or folders to read, the better first; digest: a hash of their content, part of a
    result's identity; asked: the user named the file, so it must be readable."""

    kind: Kind
    uris: tuple[str, ...]
    digest: str
    asked: bool

    def noted(self) -> dict[str, object]:
        """The source as a JSON object."""
        return {"kind": self.kind, "uris": list(self.uris), "digest": self.digest, "asked": self.asked}

    @staticmethod
    def from_noted(values: Mapping[str, object]) -> PositionsSource:
        """The inverse of `noted`. Raises ValueError for other values."""
        kind = next((one for one in get_args(Kind) if one == values.get("kind")), None)
        if kind is None:
            raise ValueError(f"field positions.kind: unknown {str(values.get('kind'))[:40]!r}")
        uris = values.get("uris", ())
        if not isinstance(uris, Sequence):
            raise ValueError(f"field positions.uris: expected a list, got {type(uris).__name__}")
        return PositionsSource(kind, tuple(map(str, uris)), str(values.get("digest")), bool(values.get("asked")))

    def identity(self, config: PositionsConfig) -> dict[str, object]:
        """The part of a result's identity that concerns positions."""
        said: dict[str, object] = {"digest": self.digest, "clock_window": config.clock_window}
        for name in ("crs", "lever"):
            value = getattr(config, name)
            if value is not None:
                said[name] = value
        return said


def with_positions(drive: Drive, config: PositionsConfig) -> Drive:
    """The drive with its positions. Raises the errors of `find_positions`."""
    source = find_positions(drive.source_uri, drive.uris, drive.drive_id, config, drive.beside)
    if source is None:
        return replace(drive, positions=None, positions_identity=None)
    return replace(drive, positions=source.noted(), positions_identity=source.identity(config))


def find_positions(
    source_uri: str,
    frame_uris: Sequence[str],
    drive_id: str,
    config: PositionsConfig,
    beside: Sequence[str] | None = None,
) -> PositionsSource | None:
    """The source of a drive's positions; None if there is none, or if the settings say "none".

    frame_uris: the URIs of the frames, or of the video's files; beside: names of the files in the frames' folder, where
    the caller has listed it already. Raises DriveError if `config.file` does not exist; StorageError if a store does
    not answer.
    """
    if config.file == NONE:
        return None
    if config.file is not None:
        return _asked(storage.absolute(config.file), drive_id)
    first = frame_uris[0].partition(FRAME_MARK)[0]
    if is_video(first):
        return _of_video(list(dict.fromkeys(uri.partition(FRAME_MARK)[0] for uri in frame_uris)))
    folder = storage.parent_and_name(first)[0]
    return (
        _in_folder(folder, drive_id, beside)
        or _of_dataset(source_uri, folder)
        or (_in_folder(source_uri, drive_id, None) if _is_above(source_uri, folder) else None)
        or _of_pictures(frame_uris)
    )


def _asked(uri: str, drive_id: str) -> PositionsSource:
    shown = storage.redacted(uri)
    try:
        file = storage.stored_file(uri)
    except storage.NotFoundError:
        if not storage.exists(uri):
            raise DriveError(f"--positions.file {shown} is not there") from None
        found = _folder_asked(uri, drive_id)
        if found is None:
            raise DriveError(
                f"--positions.file {shown} is a folder without oxts packets, comma2k19 logs or {drive_id}.gpx, .csv"
            ) from None
        return found
    if is_video(uri):
        return PositionsSource("telemetry", (uri,), _hash(f"{file.name} {file.size} {file.etag}"), True)
    return PositionsSource("file", (uri,), _digest(uri), True)


def _folder_asked(uri: str, drive_id: str) -> PositionsSource | None:
    if storage.exists(storage.join(uri, "data")):
        return _oxts(uri, asked=True)
    if is_segment(uri):
        return PositionsSource("comma2k19", (uri,), _hash(uri), True)
    for ending in _OF_A_FLEET:
        place = storage.join(uri, drive_id + ending)
        if storage.exists(place):
            return PositionsSource("file", (place,), _digest(place), True)
    return None


def _of_video(clips: Sequence[str]) -> PositionsSource | None:
    uri = clips[0]
    folder, name = storage.parent_and_name(uri)
    stem = name.rpartition(".")[0]
    for ending in _OF_A_FLEET:
        place = storage.join(folder, stem + ending)
        if storage.exists(place):
            return PositionsSource("file", (place,), _digest(place), False)
    if telemetry_kind(uri) is not None:
        return PositionsSource("telemetry", tuple(clips), "in the video", False)
    if is_segment(folder):
        folders = tuple(storage.parent_and_name(clip)[0] for clip in clips)
        return PositionsSource("comma2k19", folders, _hash(" ".join(folders)), False)
    return None


def _in_folder(folder: str, drive_id: str, beside: Sequence[str] | None) -> PositionsSource | None:
    if beside is None:
        beside = [storage.join(folder, name) for name in storage.list_files(folder).names]
    found = {storage.parent_and_name(uri)[1]: uri for uri in beside}
    names = [name for name in found if is_positions_name(name, drive_id)]
    places = sorted((name for name in names if not is_speed_name(name)), key=_rank)[:1]
    speeds = sorted(name for name in names if is_speed_name(name))[:1]
    uris = tuple(found[name] for name in [*places, *speeds])
    if not uris:
        return None
    return PositionsSource("file", uris, _hash("".join(_digest(uri) for uri in uris)), False)


def _rank(name: str) -> tuple[int, str]:
    return (0 if name.lower().endswith(TRACKS) else 1, name)


def _of_dataset(source_uri: str, folder: str) -> PositionsSource | None:
    """KITTI raw's oxts, beside the cameras' folders."""
    parent, name = storage.parent_and_name(folder)
    if name == "data":
        camera_parent = storage.parent_and_name(parent)[0]
        place = storage.join(camera_parent, "oxts")
        if camera_parent and storage.exists(storage.join(place, "data")):
            return _oxts(place, asked=False)
    return None


def _oxts(place: str, *, asked: bool) -> PositionsSource:
    files = storage.list_files(storage.join(place, "data"))
    return PositionsSource("oxts", (place,), _hash(repr([(f.name, f.size, f.etag) for f in files])), asked)


def _of_pictures(frame_uris: Sequence[str]) -> PositionsSource | None:
    for uri in frame_uris[:_FIRST_PICTURES]:
        try:
            if exif_position(storage.read_bytes(uri, limit=HEADER_BYTES)) is not None:
                return PositionsSource("exif", (), "in the pictures", False)
        except storage.NotFoundError:
            continue
    return None


def _is_above(source_uri: str, folder: str) -> bool:
    return storage.absolute(source_uri).rstrip("/") == storage.parent_and_name(folder)[0].rstrip("/")


def _digest(uri: str) -> str:
    file = storage.stored_file(uri)
    if file.size > _MOST_BYTES:
        raise DriveError(f"{storage.redacted(uri)}: {file.size:,} bytes are too many for positions")
    return hashlib.sha256(storage.read_bytes(uri)).hexdigest()


def _hash(text: str) -> str:
    return hashlib.sha256(without_credentials(text).encode()).hexdigest()

"""The user's masks of a drive's frames, scaled to the network's pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline import storage
from pipeline.cameras.fields import CalibrationError
from pipeline.cameras.masks import Mask, read_mask, rectified_mask, shrunk_mask
from pipeline.cameras.rectify import View
from pipeline.ingest.preprocess import SUFFIXES, frame_geometry

AUTO = "auto"
"""Instead of masks: found by themselves (pipeline.cameras.masks.find_static_parts)."""


@dataclass(frozen=True)
class FrameShape:
    """How a drive's upright frames become the network's: both sizes (width, height), and the rectified view."""

    source: tuple[int, int]
    network: tuple[int, int]
    view: View | None


class FrameMasks:
    """Masks (h, w) of a drive's frames at the network's size, read when asked for; True where a pixel counts."""

    def __init__(self, uri: str, drive_id: str, frame_uris: Sequence[str], shape: FrameShape) -> None:
        """uri: one picture, or a folder of pictures named after the frames. Raises CalibrationError where there is no
        mask at all, or the picture is none; StorageError."""
        self._shape = shape
        self._frame_uris = frame_uris
        self.one: Mask | None = None
        """The mask of all frames, where there is one."""
        self._folder, self._names = uri, frozenset[str]()
        if uri.lower().endswith(SUFFIXES):
            self.one = self._read(uri)
        else:
            self._folder, files = _listed(uri, drive_id, frame_uris)
            self._names = frozenset(files.names)

    def of(self, frame: int) -> Mask | None:
        """The mask of a frame, by its number in the drive; None where it has none and all of it counts."""
        if self.one is not None:
            return self.one
        name = self._name(frame)
        return None if name is None else self._read(storage.join(self._folder, name))

    def _name(self, frame: int) -> str | None:
        return next((name for name in _names_of(self._frame_uris[frame], frame) if name in self._names), None)

    def _read(self, uri: str) -> Mask:
        mask = read_mask(storage.read_bytes(uri), storage.redacted(uri), self._shape.source)
        if self._shape.view is not None:
            return rectified_mask(mask, self._shape.view)
        width, height = self._shape.network
        geometry = frame_geometry(*self._shape.source, height, width)
        resized = geometry.resized_width, geometry.resized_height
        return shrunk_mask(mask, resized, geometry.left, geometry.top, (width, height))


def masks_digest(uri: str, drive_id: str, frame_uris: Sequence[str]) -> str:
    """A name for what masks hold: of the picture, or of the names, sizes and etags in the folder. Raises as
    FrameMasks does, without reading a folder's pictures."""
    if uri.lower().endswith(SUFFIXES):
        return hashlib.sha256(storage.read_bytes(uri)).hexdigest()
    _, files = _listed(uri, drive_id, frame_uris)
    rows = sorted(f"{file.name} {file.size} {file.etag}" for file in files)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _listed(uri: str, drive_id: str, frame_uris: Sequence[str]) -> tuple[str, storage.Listing]:
    """The folder that has masks of a drive, the one of its own first, and what is in it."""
    for folder in (storage.join(uri, drive_id), uri):
        try:
            files = storage.list_files(folder)
        except storage.NotFoundError:
            continue
        names = frozenset(files.names)
        if any(name in names for number, one in enumerate(frame_uris) for name in _names_of(one, number)):
            return folder, files
    raise CalibrationError(
        f"--masks {storage.redacted(uri)}: there is no mask with the name of a frame of drive {drive_id}, such as "
        f"{_names_of(frame_uris[0], 0)[0]}; give one picture, or a folder of pictures named after the frames"
    )


def _names_of(uri: str, frame: int) -> tuple[str, ...]:
    """Names that the mask of a frame may have: COLMAP's, the plain one, and for frames of a video their number."""
    if "#frame=" in uri:
        film, _, number_text = uri.rpartition("#frame=")
        number, clip = int(number_text), storage.parent_and_name(film)[1].rpartition(".")[0]
        return (f"{clip}_{number:06d}.png", f"{number:06d}.png", f"frame_{number:06d}.png")
    name = storage.parent_and_name(uri)[1]
    stem = name.rpartition(".")[0]
    return (f"{name}.png", f"{stem}.png", f"{stem}_mask.png")

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
"""In place of masks: detect static parts of the picture (pipeline.cameras.masks.find_static_parts)."""


@dataclass(frozen=True)
class FrameShape:
    """The sizes (width, height) of a drive's upright frames and of the network's, and the rectified views: none, one,
    or one for each camera of a rig whose cameras differ."""

    source: tuple[int, int]
    network: tuple[int, int]
    views: tuple[View, ...] = ()


class FrameMasks:
    """Masks (h, w) of a drive's frames at the network's size, read when needed; True where a pixel counts."""

    def __init__(self, uri: str, drive_id: str, frame_uris: Sequence[str], shape: FrameShape) -> None:
        """uri: one picture, or a folder of pictures named after the frames. Raises CalibrationError where there is no
        mask, or the picture is not valid; StorageError."""
        self._shape = shape
        self._frame_uris = frame_uris
        self.static: tuple[Mask, ...] = ()
        """The mask that holds for all frames, for each of the views; none where each frame has its own."""
        self._folder, self._names = uri, frozenset[str]()
        if uri.lower().endswith(SUFFIXES):
            self.static = tuple(self._read(uri, view) for view in range(max(len(shape.views), 1)))
        else:
            self._folder, files = _listed(uri, drive_id, frame_uris)
            self._names = frozenset(files.names)

    def of(self, frame: int) -> Mask | None:
        """The mask of a frame, by its number in the drive; None where it has none and all pixels count."""
        if self.static:
            return self.static[frame % len(self.static)]
        name = self._name(frame)
        return None if name is None else self._read(storage.join(self._folder, name), frame)

    def _name(self, frame: int) -> str | None:
        return next((name for name in _names_of(self._frame_uris[frame], frame) if name in self._names), None)

    def _read(self, uri: str, frame: int) -> Mask:
        views, size = self._shape.views, self._shape.source
        view = views[frame % len(views)] if views else None
        if len(views) > 1 and view is not None:
            size = view.lens.width, view.lens.height
        mask = read_mask(storage.read_bytes(uri), storage.redacted(uri), size)
        if view is not None:
            return rectified_mask(mask, view)
        width, height = self._shape.network
        geometry = frame_geometry(*self._shape.source, height, width)
        resized = geometry.resized_width, geometry.resized_height
        return shrunk_mask(mask, resized, geometry.left, geometry.top, (width, height))


def masks_digest(uri: str, drive_id: str, frame_uris: Sequence[str]) -> str:
    """A hash of the masks: of the picture's content, or of the names, sizes and etags in the folder. Raises the errors
    of FrameMasks; pictures in a folder are not read."""
    if uri.lower().endswith(SUFFIXES):
        return hashlib.sha256(storage.read_bytes(uri)).hexdigest()
    _, files = _listed(uri, drive_id, frame_uris)
    rows = sorted(f"{file.name} {file.size} {file.etag}" for file in files)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _listed(uri: str, drive_id: str, frame_uris: Sequence[str]) -> tuple[str, storage.Listing]:
    """The folder with masks of a drive and its contents; a folder with the drive's name is tried first."""
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
    """Names that the mask of a frame may have: as in COLMAP, or with the frame's name; for a video, with its number."""
    if "#frame=" in uri:
        film, _, number_text = uri.rpartition("#frame=")
        number, clip = int(number_text), storage.parent_and_name(film)[1].rpartition(".")[0]
        return (f"{clip}_{number:06d}.png", f"{number:06d}.png", f"frame_{number:06d}.png")
    name = storage.parent_and_name(uri)[1]
    stem = name.rpartition(".")[0]
    return (f"{name}.png", f"{stem}.png", f"{stem}_mask.png")

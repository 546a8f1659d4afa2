"""A segment's tracks in the drive's staging folder, and what is needed to follow them over its borders.

The task that decodes a segment makes its tracks and stages three files: `segment-*` holds the tracks; `live-*` those
that the last good picture shows, with their templates, and this picture; `pictures-*` the first good pictures, into
which the tracks of the segment before are followed. Pictures are compressed without loss, to 0.6 of their size (KITTI).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.cameras.rectify import View
from pipeline.errors import DriveError
from pipeline.refine.border import REACH
from pipeline.refine.templates import Origins, Templates
from pipeline.refine.tracks import LONG_SIDE, LiveTracks, Picture, Tracks, tracks_and_live

TRACKS_FOLDER = "tracks"
_FROM_RIM = 12  # pixels between a corner and the rim of what a lens sees: half a template and more

_T = TypeVar("_T")
_Number = TypeVar("_Number", bound=np.number)


@dataclass(frozen=True)
class PictureTracker:
    """Base of the trackers, which work on the pictures of a segment in the task that decodes them. folder: path or URI
    of the drive's tracks."""

    folder: str

    @property
    def long_side(self) -> int:
        """Largest number of pixels of a picture's long side."""
        return LONG_SIDE

    def picture(self, grey: NDArray[np.uint8]) -> Picture:
        """The part of a decoded grey frame (h, w) that is kept until its segment is complete."""
        return Picture.of(grey)


@dataclass(frozen=True)
class SegmentTracker(PictureTracker):
    """Follows corners through the frames of a segment. view: by which the pictures were rectified, where corners must
    lie in the part that the lens sees; None: anywhere."""

    view: View | None = None

    def segment_done(self, first_frame: int, pictures: Sequence[Picture | None]) -> None:
        """Track through a segment's pictures (None: a bad frame) and stage the tracks. Raises StorageError."""
        cv2.setNumThreads(1)  # decoding already runs in one process a core
        shape = next((picture.pixels.shape for picture in pictures if picture is not None), None)
        mask = None if self.view is None or shape is None else _inside(self.view, shape)
        tracks, live = tracks_and_live(pictures, first_frame, mask)
        good = [(frame, picture) for frame, picture in enumerate(pictures, first_frame) if picture is not None]
        name = f"{first_frame:07d}-{first_frame + len(pictures):07d}.arrow"
        if live is not None:
            write_table(self._uri("pictures-" + name), _pictures_table(good[:REACH]))
            write_table(self._uri("live-" + name), _live_table(live))
        table = tracks_table(tracks).replace_schema_metadata({b"segment": json.dumps({"good": len(good)}).encode()})
        write_table(self._uri("segment-" + name), table)  # last: a segment that is listed is complete

    def _uri(self, name: str) -> str:
        return storage.join(self.folder, name)


@lru_cache(maxsize=16)
def _inside(view: View, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """(h, w) of `shape`: True for pixels whose surroundings the lens sees; None where it sees all. The rim of what it
    sees is an edge that stands still in all frames."""
    seen = view.seen()
    if seen.shape != shape:  # the network's pictures are larger than those in which corners are followed
        seen = cv2.resize(seen.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    kernel = np.ones((2 * _FROM_RIM + 1, 2 * _FROM_RIM + 1), np.uint8)
    eroded = cv2.erode(seen.astype(np.uint8), kernel, borderValue=1)
    return None if seen.all() else np.asarray(eroded > 0)


@dataclass(frozen=True)
class StagedSegment:
    """A staged segment: frames first ... stop - 1. folder: of the tracks; name: of the file `segment-*`."""

    folder: str
    name: str

    @property
    def first(self) -> int:
        """Its first frame."""
        return range_of(self.name)[0]

    @property
    def stop(self) -> int:
        """The frame after its last one."""
        return range_of(self.name)[1]

    def tracks(self) -> Tracks:
        """Its tracks. Raises StorageError, and DriveError if the file is damaged."""
        return tracks_of_table(read_table(storage.join(self.folder, self.name)))

    def pictures(self) -> list[tuple[int, Picture]]:
        """Its first good pictures and their frames; none if no frame is good. Raises StorageError, DriveError."""
        return self._read("pictures", _pictures, lambda ends: ends[:1], [])

    def live(self) -> LiveTracks | None:
        """Its tracks at the last good frame; None if no frame is good. Raises StorageError, DriveError."""
        return self._read("live", _live, self._live_at_end, None)

    def _live_at_end(self, ends: list[tuple[int, Picture]]) -> LiveTracks | None:
        if not ends:
            return None
        frame, picture = ends[-1]
        tracks = self.tracks()
        here = tracks.frame == frame
        return LiveTracks.begun(frame, picture, tracks.track[here], tracks.xy[here])

    def _read(
        self,
        kind: str,
        read: Callable[[pa.Table], _T],
        from_ends: Callable[[list[tuple[int, Picture]]], _T],
        nothing: _T,
    ) -> _T:
        """The file of a kind; of an older version, which staged only the first and the last picture, what they give."""
        uri = storage.join(self.folder, self.name)
        try:
            table = read_table(uri)
            facts = json.loads(table.schema.metadata[b"segment"])
            if "ends" in facts:
                return from_ends(_ends(table, facts["ends"]))
            if not facts["good"]:
                return nothing
            uri = storage.join(self.folder, kind + self.name.removeprefix("segment"))
            return read(read_table(uri))
        except (KeyError, TypeError, ValueError, pa.ArrowInvalid) as error:
            raise DriveError(f"{uri} holds no segment's tracks ({error}); run the drive again") from error


def _ends(table: pa.Table, ends: Sequence[dict[str, object]]) -> list[tuple[int, Picture]]:
    """The first and the last picture in a file of an older version."""
    found = []
    for number, end in enumerate(ends):
        pixels = np.frombuffer(table.schema.metadata[f"picture{number}".encode()], np.uint8)
        scale = np.asarray(end["scale"], np.float64)
        shape = np.asarray(end["shape"], np.int64)
        picture = Picture(pixels.reshape(shape), (float(scale[0]), float(scale[1])))
        found.append((int(np.asarray(end["frame"])), picture))
    return found


def _pictures_table(pictures: Sequence[tuple[int, Picture]]) -> pa.Table:
    frames, shown = zip(*pictures, strict=True)
    return pa.table({"frame": pa.array(frames, pa.int32()), **_picture_columns(shown)})


def _picture_columns(pictures: Sequence[Picture]) -> dict[str, pa.Array]:
    return {
        "height": pa.array([one.pixels.shape[0] for one in pictures], pa.int32()),
        "width": pa.array([one.pixels.shape[1] for one in pictures], pa.int32()),
        "scale_x": pa.array([one.scale[0] for one in pictures], pa.float64()),
        "scale_y": pa.array([one.scale[1] for one in pictures], pa.float64()),
        "pixels": pa.array([_packed(one.pixels) for one in pictures], pa.large_binary()),
    }


def _pictures(table: pa.Table) -> list[tuple[int, Picture]]:
    return [
        (row["frame"], Picture(_unpacked(row["pixels"], row["height"], row["width"]), (row["scale_x"], row["scale_y"])))
        for row in table.to_pylist()
    ]


def _live_table(live: LiveTracks) -> pa.Table:
    """One row a track; the picture is in the metadata, as a table of one row."""
    origin = live.templates.origin
    columns = {
        "track": pa.array(live.track, pa.int64()),
        "x": pa.array(live.points[:, 0], pa.float32()),
        "y": pa.array(live.points[:, 1], pa.float32()),
        "warp": _rows_of(live.templates.warp.reshape(-1, 4)),
        "origin": _rows_of(origin.pixels.reshape(len(live.track), origin.pixels[0].size if len(live.track) else 1)),
        "at": _rows_of(origin.at),
    }
    picture = _arrow(_pictures_table([(live.frame, live.picture)]))
    return pa.table(columns).replace_schema_metadata({b"side": str(live.templates.side).encode(), b"picture": picture})


def _live(table: pa.Table) -> LiveTracks:
    metadata = table.schema.metadata
    ((frame, picture),) = _pictures(pa.ipc.open_file(metadata[b"picture"]).read_all())
    points = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], 1)
    pixels = _matrix(table["origin"], np.uint8)
    around = round(np.sqrt(pixels.shape[1]))
    origin = Origins(pixels.reshape(-1, around, around), _matrix(table["at"], np.float32))
    templates = Templates.begun(origin, int(metadata[b"side"]), _matrix(table["warp"], np.float32).reshape(-1, 2, 2))
    return LiveTracks(frame, picture, table["track"].to_numpy(), points, templates)


def _rows_of(matrix: NDArray[np.generic]) -> pa.Array:
    """A column whose values are the rows of a matrix (n, m)."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def _matrix(column: pa.ChunkedArray, kind: type[_Number]) -> NDArray[_Number]:
    """The inverse of `_rows_of`."""
    values = column.combine_chunks()
    return np.asarray(values.flatten().to_numpy(), kind).reshape(len(values), column.type.list_size)


def _packed(pixels: NDArray[np.uint8]) -> bytes:
    """Differences of neighbours are smaller than grey values: zstd alone compresses to 0.82 instead of 0.58."""
    return pa.Codec("zstd", 1).compress(np.diff(pixels, axis=1, prepend=np.uint8(0)).tobytes(), asbytes=True)


def _unpacked(packed: bytes, height: int, width: int) -> NDArray[np.uint8]:
    raw = pa.Codec("zstd").decompress(packed, height * width, asbytes=True)
    return np.cumsum(np.frombuffer(raw, np.uint8).reshape(height, width), axis=1, dtype=np.uint8)


def staged_names(folder: str, prefix: str) -> list[str]:
    """Names of the staged Arrow files that begin with `prefix`, sorted; none if the folder does not exist. Raises
    StorageError."""
    if not storage.exists(folder):
        return []
    names = [file.name for file in storage.list_files(folder)]
    return sorted(name for name in names if name.startswith(prefix) and name.endswith(".arrow"))


def range_of(name: str) -> tuple[int, int]:
    """First frame, and the frame after the last one if the name has it (else the first frame again)."""
    numbers = name.split(".")[0].split("-")[1:]
    return int(numbers[0]), int(numbers[-1])


def tracks_table(tracks: Tracks) -> pa.Table:
    """The table in which tracks are staged, with positions of 32 bits."""
    return pa.table(
        {
            "track": pa.array(tracks.track, pa.int64()),
            "frame": pa.array(tracks.frame, pa.int32()),
            "x": pa.array(tracks.xy[:, 0].astype(np.float32)),
            "y": pa.array(tracks.xy[:, 1].astype(np.float32)),
        }
    )


def tracks_of_table(table: pa.Table) -> Tracks:
    """The inverse of `tracks_table`."""
    xy = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], 1).astype(np.float64)
    return Tracks(table["track"].to_numpy().astype(np.int64), table["frame"].to_numpy().astype(np.int64), xy)


def write_table(uri: str, table: pa.Table) -> None:
    """Stage a table as an Arrow file, which is visible only when it is complete. Raises StorageError."""
    storage.write_bytes_atomically(uri, _arrow(table))


def _arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def read_table(uri: str) -> pa.Table:
    """Read a staged table. Raises StorageError, and DriveError if the file is damaged."""
    try:
        return pa.ipc.open_file(storage.read_bytes(uri)).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise DriveError(f"{uri} holds no tracks ({error}); run the drive again") from error

"""PLY, binary little endian: x y z, red green blue, confidence, chunk, frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.publish.exports.source import ExportSource

_FULL = np.dtype(
    [
        *((axis, "<f4") for axis in "xyz"),
        *((colour, "u1") for colour in ("red", "green", "blue")),
        ("confidence", "<f4"),
        ("chunk", "<i4"),
        ("frame", "<i4"),
    ]
)
_PLAIN = np.dtype(_FULL.descr[:6])
_COLUMNS = {"red": "r", "green": "g", "blue": "b", "chunk": "chunk_index", "frame": "frame_index"}
_TYPES = {"<f4": "float", "|u1": "uchar", "<i4": "int"}
_HEADER_BYTES = 512
OUR_WORLD = "OpenCV axes of the first camera"
ON_EARTH = "metres east, north, up at the drive's origin"


def write_ply(
    source: ExportSource,
    path: Path,
    *,
    plain: bool = False,
    rotation: NDArray[np.float64] | None = None,
    world: str | None = None,
) -> int:
    """Write the points piece by piece; returns their number. plain: positions and colours only.

    rotation (3, 3): to another world; `world` is its name in the file.
    """
    if world is None:
        world = OUR_WORLD if source.drive.origin is None else ON_EARTH
    kind = _PLAIN if plain else _FULL
    columns = {name: _COLUMNS.get(name, name) for name in kind.names or ()}
    count = 0
    with path.open("wb") as file:
        file.write(_header(kind, 0, world))
        for table in source.points(list(columns.values())):
            rows = np.empty(table.num_rows, kind)
            for name, column in columns.items():
                rows[name] = table[column].to_numpy()
            if rotation is not None:
                places = np.stack([rows[axis] for axis in "xyz"], -1) @ rotation.T
                for axis, values in zip("xyz", places.T, strict=True):
                    rows[axis] = values
            file.write(rows.tobytes())
            count += len(rows)
        file.seek(0)
        file.write(_header(kind, count, world))  # the number of points is known now
    return count


def _header(kind: np.dtype, count: int, world: str) -> bytes:
    """The header. Its length is the same for every count, so that it can be written again at the end."""
    properties = [f"property {_TYPES[kind[name].str]} {name}" for name in kind.names or ()]
    begin = f"ply\nformat binary_little_endian 1.0\ncomment world: {world}\ncomment "
    end = "\n".join(["", f"element vertex {count}", *properties, "end_header", ""])
    return (begin + "-" * (_HEADER_BYTES - len(begin) - len(end)) + end).encode()

"""Cloud-optimised LAZ (COPC 1.0): the points in an octree, of which a viewer reads only the upper levels that it needs.

https://copc.io/copc-specification-1.0.pdf. lazrs compresses the nodes, laspy writes the header; this file makes the
octree.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DriveError
from pipeline.publish.exports.laz import check_laz, laz_header, laz_records
from pipeline.publish.exports.source import ExportSource

if TYPE_CHECKING:
    import laspy

_CELLS = 128  # cells of a node along an axis: the node itself keeps at most one point in each
_LEAF_POINTS = 8_000  # a node with no more points than this keeps them all
_MOST_LEVELS = 14  # cell numbers have 21 bits on each axis
_INFO, _ENTRY = struct.Struct("<5d2Q2d88x"), struct.Struct("<4iQ2i")


def write_copc(source: ExportSource, path: Path) -> int:
    """Write the points; returns their number. Needs about 40 bytes of memory for each point; the records wait in a file
    beside `path`. Raises DriveError where no points are selected."""
    header, earth = laz_header(source)
    count = write_octree(header, laz_records(source, header, earth), path)
    if not count:
        raise DriveError(f"drive {source.drive.manifest.drive_id}: no points are selected: there is no cloud")
    return count


def write_octree(header: laspy.LasHeader, records: Iterable[laspy.ScaleAwarePointRecord], path: Path) -> int:
    """Write records of `header`, and change the header; returns their number. Without records no file is written."""
    laspy, lazrs = check_laz(), import_module("lazrs")
    with tempfile.TemporaryFile(dir=path.parent) as held:
        places = []
        for points in records:
            places.append(np.stack([points["X"], points["Y"], points["Z"]], -1))
            held.write(points.array.tobytes())
        held.flush()
        if not sum(len(one) for one in places):
            return 0
        place = np.concatenate(places)
        low = place.min(0)
        side = int(np.ptp(place, axis=0).max()) + 1
        order, keys, counts = octree(place - low, side)
        records = np.memmap(held, points.array.dtype, "r")
        zipped = lazrs.LazVlr.new_for_compression(7, header.point_format.num_extra_bytes, True)
        header.vlrs.insert(0, laspy.VLR("copc", 1, "COPC info", bytes(_INFO.size)))
        header.vlrs.append(laspy.vlrs.known.LasZipVlr(zipped.record_data()))
        header.are_points_compressed = True
        with open(path, "w+b") as file:
            header.partial_reset()
            header.write_to(file)
            compressor = lazrs.LasZipCompressor(file, zipped)
            for number, node in enumerate(np.split(order, np.cumsum(counts)[:-1])):
                if number:
                    compressor.finish_current_chunk()
                part = records[node]
                header.grow(laspy.PackedPointRecord(part, header.point_format))
                compressor.compress_many(part.tobytes())
            header.point_count = len(order)
            compressor.done()
            file.seek(header.offset_to_point_data)
            sizes = [size for _, size in lazrs.read_chunk_table(file, zipped)]
            _write_hierarchy(file, header.offset_to_point_data + 8, keys, counts, sizes)
            step = float(header.scales[0])
            half = side * step / 2
            centre = header.offsets + low * step + half
            evlrs = file.tell() - len(keys) * _ENTRY.size
            info = _INFO.pack(*centre, half, 2 * half / _CELLS, evlrs, len(keys) * _ENTRY.size, 0.0, 0.0)
            header.vlrs[0].record_data = info
            header.start_of_first_evlr, header.number_of_evlrs = evlrs - 60, 1
            file.seek(0)
            header.write_to(file, ensure_same_size=True)
    return len(order)


def octree(place: NDArray[np.int32], side: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Assign points (n, 3), integers in [0, side), to nodes. Returns order (n,): the points node by node, from the root
    down; keys (m, 4): level, x, y, z of each node; counts (m,): points of each node. From the points that no node above
    keeps, a node keeps the first in each of its cells; a node with few points keeps all."""
    rest = np.arange(len(place))
    order, keys, counts = [], [], []
    for level in range(_MOST_LEVELS + 1):
        nodes = 2**level
        cell = (place[rest].astype(np.float64) * (nodes * _CELLS / side)).astype(np.int64)
        node = cell // _CELLS
        code = (node[:, 0] << 42) | (node[:, 1] << 21) | node[:, 2]
        _, which, number = np.unique(code, return_inverse=True, return_counts=True)
        whole = number[which] <= _LEAF_POINTS
        kept = whole.copy()
        first = np.unique((cell[:, 0] << 42) | (cell[:, 1] << 21) | cell[:, 2], return_index=True)[1]
        kept[first] = True
        if level == _MOST_LEVELS:
            kept[:] = True
        here = np.flatnonzero(kept)
        here = here[np.argsort(code[here], kind="stable")]
        _, start, number = np.unique(code[here], return_index=True, return_counts=True)
        order.append(rest[here])
        keys.append(np.concatenate([np.full((len(start), 1), level), node[here][start]], 1))
        counts.append(number)
        rest = rest[~kept]
        if not len(rest):
            break
    return np.concatenate(order), np.concatenate(keys), np.concatenate(counts)


def _write_hierarchy(
    file: BinaryIO, begin: int, keys: NDArray[np.int64], counts: NDArray[np.int64], sizes: list[int]
) -> None:
    """Append the hierarchy page, which lists all nodes, as an extended record at the end of the file."""
    file.seek(0, 2)
    file.write(struct.pack("<2x16sHQ32s", b"copc", 1000, len(keys) * _ENTRY.size, b"COPC hierarchy"))
    at = begin
    for key, count, size in zip(keys.tolist(), counts.tolist(), sizes, strict=True):
        file.write(_ENTRY.pack(*key, at, size, count))
        at += size

"""Reads positions from PLY and PCD files, in which benchmarks publish laser scans, a block of points at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.evaluation.clouds import Cloud

_BLOCK = 1_000_000  # points read at a time
_HEADER_LINES = 200
_PLY_TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
_ENDS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}


def read_cloud(uri: str) -> Iterator[Cloud]:
    """Positions (n, 3) of a .ply or .pcd file, at most a million at a time, without those that are not finite.

    Raises DriveError, which names the file, if it has another format, is damaged, or is a compressed PCD.
    """
    name = storage.parent_and_name(uri)[1]
    with storage.open_input(uri) as file:
        try:
            kind, count, form = _pcd_header(file) if name.lower().endswith(".pcd") else _ply_header(file)
            read = 0
            pieces = _rows_of_text(file, kind, count) if form == "ascii" else _rows(file, kind, count)
            for rows in pieces:
                read += len(rows)
                xyz = np.stack([rows[axis] for axis in "xyz"], -1).astype(np.float32)
                yield xyz[np.isfinite(xyz).all(axis=1)]
            if read < count:
                raise ValueError(f"it ends after {read} of {count} points")
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DriveError(f"{storage.redacted(uri)} cannot be read as a point cloud: {error}") from None


def _ply_header(file: BinaryIO) -> tuple[np.dtype, int, str]:
    if file.readline().strip() != b"ply":
        raise ValueError("expected 'ply' in the first line")
    fields: list[tuple[str, str]] = []
    form, element, count = "", "", 0
    for line in _header(file, b"end_header"):
        words = line.split()
        if words[:1] == ["format"]:
            form = words[1]
        elif words[:1] == ["element"]:
            if element == "" and words[1] != "vertex":
                raise ValueError(f"expected vertices first, got {words[1]}")
            element = words[1]
            count = int(words[2]) if element == "vertex" else count
        elif words[:1] == ["property"] and element == "vertex":
            if words[1] == "list":
                raise ValueError("vertices with lists")
            fields.append((words[2], _ENDS[form] + _PLY_TYPES[words[1]]))
    return np.dtype(fields), count, form


def _pcd_header(file: BinaryIO) -> tuple[np.dtype, int, str]:
    values: dict[str, list[str]] = {}
    for line in _header(file, b"DATA", keep=True):
        name, *rest = line.split()
        values[name] = rest
    (form,) = values["DATA"]
    if form not in ("ascii", "binary"):
        raise ValueError(f"DATA {form} is not supported; pcl_convert_pcd_ascii_binary IN.pcd OUT.pcd 1 converts it")
    counts = values.get("COUNT", ["1"] * len(values["FIELDS"]))
    kinds = {"F": "f", "U": "u", "I": "i"}
    fields = []
    for place, (name, size, kind, times) in enumerate(
        zip(values["FIELDS"], values["SIZE"], values["TYPE"], counts, strict=True)
    ):
        unique = name if name in "xyz" else f"{name}{place}"  # all padding fields are called _
        fields.append(
            (unique, f"<{kinds[kind]}{size}", (int(times),)) if int(times) > 1 else (unique, f"<{kinds[kind]}{size}")
        )
    return np.dtype(fields), int(values["POINTS"][0]), form


def _header(file: BinaryIO, last: bytes, *, keep: bool = False) -> Iterator[str]:
    for _ in range(_HEADER_LINES):
        line = file.readline(1000)
        at_end = line.startswith(last)
        if (not at_end or keep) and line.strip() and not line.startswith(b"#"):
            yield line.decode("ascii", "replace").strip()
        if at_end:
            return
    raise ValueError("its header has no end")


def _rows(file: BinaryIO, kind: np.dtype, count: int) -> Iterator[np.ndarray]:
    while count > 0:
        data = file.read(kind.itemsize * min(count, _BLOCK))
        rows = np.frombuffer(data[: len(data) - len(data) % kind.itemsize], kind)
        if not len(rows):
            return
        yield rows
        count -= len(rows)


def _rows_of_text(file: BinaryIO, kind: np.dtype, count: int) -> Iterator[np.ndarray]:
    names = kind.names or ()
    columns = [names.index(axis) for axis in "xyz"]
    while count > 0:
        lines = [line for line in (file.readline() for _ in range(min(count, _BLOCK))) if line.strip()]
        if not lines:
            return
        values = np.loadtxt(io.BytesIO(b"".join(lines)), usecols=columns, ndmin=2)
        rows = np.empty(len(values), [(axis, "f8") for axis in "xyz"])
        for place, axis in enumerate("xyz"):
            rows[axis] = values[:, place]
        yield rows
        count -= len(rows)

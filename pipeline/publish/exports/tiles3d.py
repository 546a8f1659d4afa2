"""3D Tiles 1.1 with points as glTF 2.0: an overview tile, and below it a tile for each piece of the cloud.

Positions are float32 metres about the middle of their tile. The node's translation and the root's transform place them
on Earth; both are doubles. glTF has y up, and viewers rotate it to z up (3D Tiles 1.1, "glTF transforms").
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DriveError
from pipeline.publish.exports.earth import Earth
from pipeline.publish.exports.source import ExportSource, stacked

Array = NDArray[np.float64]

_TILE_POINTS = 200_000
_OVERVIEW_POINTS = 100_000
_FLOAT, _UNSIGNED_BYTE, _POINTS, _ARRAY_BUFFER = 5126, 5121, 0, 34962


def write_tiles(source: ExportSource, folder: Path) -> str:
    """Write tileset.json and tiles/*.glb. Raises DriveError for a relative drive, or one without points."""
    earth = Earth.of(source)
    target = folder / "tiles"
    target.mkdir()
    children: list[dict[str, object]] = []
    boxes: list[list[float]] = []
    overview: list[tuple[Array, NDArray[np.uint8]]] = []
    total = source.drive.manifest.counts.points
    every = max(1, total // _OVERVIEW_POINTS)
    held: list[tuple[Array, NDArray[np.uint8]]] = []
    written = 0

    def flush() -> None:
        if not held:
            return
        xyz = np.concatenate([one for one, _ in held])
        rgb = np.concatenate([one for _, one in held])
        held.clear()
        name = f"tiles/{len(children):05d}.glb"
        (folder / name).write_bytes(glb_of(xyz, rgb))
        boxes.append(_box(xyz))
        children.append({"boundingVolume": {"box": boxes[-1]}, "geometricError": 0, "content": {"uri": name}})

    for table in source.points(["x", "y", "z", "r", "g", "b"]):
        xyz, rgb = stacked(table, "x", "y", "z").astype(np.float64), stacked(table, "r", "g", "b").astype(np.uint8)
        written += len(xyz)
        overview.append((xyz[::every], rgb[::every]))
        for start in range(0, len(xyz), _TILE_POINTS):
            held.append((xyz[start : start + _TILE_POINTS], rgb[start : start + _TILE_POINTS]))
            if sum(len(one) for one, _ in held) >= _TILE_POINTS:
                flush()
    flush()
    if not written:
        raise DriveError(f"drive {source.drive.manifest.drive_id}: no points are selected: there is nothing to tile")
    xyz = np.concatenate([one for one, _ in overview])
    (folder / "tiles" / "overview.glb").write_bytes(glb_of(xyz, np.concatenate([one for _, one in overview])))
    low = np.min([np.array(box[:3]) - _half(box) for box in boxes], axis=0)
    high = np.max([np.array(box[:3]) + _half(box) for box in boxes], axis=0)
    extent = float(np.linalg.norm(high - low))
    root = {
        "boundingVolume": {"box": _box(np.stack([low, high]))},
        "geometricError": max(extent / 100, 1.0),
        "refine": "REPLACE" if every == 1 else "ADD",
        "transform": earth.ecef_from_enu().T.reshape(-1).tolist(),  # column by column
        "content": {"uri": "tiles/overview.glb"},
        "children": children,
    }
    tileset = {
        "asset": {"version": "1.1", "generator": "city-reconstruction"},
        "geometricError": max(extent, 1.0),
        "root": root,
    }
    (folder / "tileset.json").write_text(json.dumps(tileset) + "\n")
    return f"tileset.json: {written:,} points in {len(children)} tiles and an overview of {len(xyz):,}"


def glb_of(enu: Array, rgb: NDArray[np.uint8]) -> bytes:
    """Binary glTF of points: metres east, north, up (n, 3) and sRGB colours (n, 3)."""
    middle = np.round((enu.min(0) + enu.max(0)) / 2)
    local = (enu - middle)[:, [0, 2, 1]] * [1.0, 1.0, -1.0]  # east, up, south: y is up
    positions = np.ascontiguousarray(local, "<f4")
    # glTF wants linear colour; bytes of four keep attributes aligned
    linear = np.round(255 * _linear(rgb.astype(np.float64) / 255)).astype(np.uint8)
    colours = np.column_stack([linear, np.full(len(rgb), 255, np.uint8)])
    data = positions.tobytes() + colours.tobytes()
    count, first = len(enu), positions.nbytes
    tree = {
        "asset": {"version": "2.0", "generator": "city-reconstruction"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "translation": [float(middle[0]), float(middle[2]), float(-middle[1])]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}, "mode": _POINTS, "material": 0}]}],
        "materials": [{"extensions": {"KHR_materials_unlit": {}}, "pbrMetallicRoughness": {"metallicFactor": 0}}],
        "extensionsUsed": ["KHR_materials_unlit"],
        "buffers": [{"byteLength": len(data)}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": first, "target": _ARRAY_BUFFER},
            {"buffer": 0, "byteOffset": first, "byteLength": len(data) - first, "target": _ARRAY_BUFFER},
        ],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": _FLOAT,
                "count": count,
                "type": "VEC3",
                "min": positions.min(0).tolist(),
                "max": positions.max(0).tolist(),
            },
            {
                "bufferView": 1,
                "componentType": _UNSIGNED_BYTE,
                "normalized": True,
                "count": count,
                "type": "VEC4",
            },
        ],
    }
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    parts = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(parts)) + parts


def _linear(value: Array) -> Array:
    """sRGB 0 to 1 to linear (IEC 61966-2-1)."""
    return np.asarray(np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4))


def _box(xyz: Array) -> list[float]:
    """Middle and three half axes, slightly enlarged so that a flat tile has a volume."""
    low, high = xyz.min(0), xyz.max(0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-3)
    return [*middle.tolist(), half[0], 0, 0, 0, half[1], 0, 0, 0, half[2]]


def _half(box: list[float]) -> Array:
    return np.array([box[3], box[7], box[11]])

"""Depth maps as 16-bit PNG, one for each frame, at the size of the network's pictures; depth.json has their cameras."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import DriveError
from pipeline.publish.exports.source import ExportSource

_AT_MEDIAN = 2048.0  # value of the median depth: the limit is 32 times as far, half a step is 0.02 % of the median
_LARGEST = 65535


@dataclass(frozen=True)
class FrameDepth:
    """Z-depth (h, w) of one frame in world units, its confidence (h, w), intrinsics (3, 3) in pixels of that grid."""

    frame_index: int
    depth: NDArray[np.floating]
    confidence: NDArray[np.floating]
    intrinsics: NDArray[np.floating]


def write_depth(
    source: ExportSource, frames: Iterator[FrameDepth], folder: Path, scale: float | None = None
) -> tuple[int, int]:
    """Write depth/<image's name>.png for each wanted frame and depth/depth.json. Returns the number of frames, and of
    pixels whose depth is too large for 16 bits.

    A PNG's value is depth (world units) times `scale`. It is 0 where the depth is not finite or not above zero, where
    the confidence is below the selection's, or where the value would be above 65535. By default, scale is a power of
    two with which the first frame's median depth is 1024 to 2048. Frames without a prediction have no file.
    """
    (folder / "depth").mkdir()
    name_of = dict(zip(source.cameras.frame_index.tolist(), source.names, strict=True))
    filled = set(source.cameras.frame_index[source.cameras.filled].tolist())
    listed: list[dict[str, object]] = []
    beyond = 0
    for frame in frames:
        if frame.frame_index not in name_of or frame.frame_index in filled:
            continue
        depth = np.where(np.isfinite(frame.depth) & (frame.depth > 0), frame.depth, 0).astype(np.float64)
        if source.selection.min_confidence is not None:
            depth[~(frame.confidence >= source.selection.min_confidence)] = 0
        if scale is None and (depth > 0).any():
            scale = 2.0 ** math.floor(math.log2(_AT_MEDIAN / float(np.median(depth[depth > 0]))))
        values = np.rint(depth * (scale or 1.0))
        beyond += int((values > _LARGEST).sum())
        values[values > _LARGEST] = 0
        name = f"{Path(name_of[frame.frame_index]).stem}.png"
        Image.fromarray(values.astype(np.uint16)).save(folder / "depth" / name)
        k = np.asarray(frame.intrinsics, np.float64)
        listed.append(
            {
                "file": name,
                "frame_index": frame.frame_index,
                "fl_x": k[0, 0],
                "fl_y": k[1, 1],
                "cx": k[0, 2],
                "cy": k[1, 2],
                "w": depth.shape[1],
                "h": depth.shape[0],
            }
        )
    if not listed:
        raise DriveError(f"drive {source.drive.manifest.drive_id}: no frame asked for has depth of its own")
    values_json = {"depth_scale": scale, "depth": "value / depth_scale, world units; 0 is none", "frames": listed}
    (folder / "depth" / "depth.json").write_text(json.dumps(values_json, indent=1) + "\n")
    return len(listed), beyond

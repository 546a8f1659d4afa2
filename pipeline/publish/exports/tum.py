"""TUM RGB-D trajectory: one line for each frame: seconds, position, quaternion x y z w."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.publish.exports.source import ExportSource
from pipeline.publish.poses import quaternion_from_rotation


def write_tum(source: ExportSource, path: Path) -> int:
    """Write one line for each wanted frame; returns their number. If the drive has no times, the first column is the
    frame's number, and a comment in the file says so."""
    cameras = source.cameras
    w, x, y, z = quaternion_from_rotation(cameras.world_from_camera[:, :3, :3]).T
    values = np.column_stack([cameras.world_from_camera[:, :3, 3], x, y, z, w])
    lines = ["# seconds x y z qx qy qz qw: world_from_camera, OpenCV axes"]
    if cameras.timestamps_ns is None:
        lines.append("# the drive has no times: the first column is the frame's number")
        times = [f"{frame}" for frame in cameras.frame_index.tolist()]
    else:  # whole nanoseconds: a float cannot hold those of a Unix time
        times = [f"{ns // 10**9}.{ns % 10**9:09d}" for ns in cameras.timestamps_ns.tolist()]
    lines += [
        f"{time} " + " ".join(f"{value:.12g}" for value in row)
        for time, row in zip(times, values.tolist(), strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return len(values)

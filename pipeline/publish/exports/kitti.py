"""KITTI odometry poses: one line for each frame with 12 numbers, world_from_camera row by row."""

from __future__ import annotations

from pathlib import Path

from pipeline.publish.exports.source import ExportSource


def write_kitti(source: ExportSource, path: Path) -> int:
    """Write one line for each wanted frame, in drive order; returns their number."""
    rows = source.cameras.world_from_camera[:, :3].reshape(-1, 12)
    path.write_text("".join(" ".join(f"{value:.12g}" for value in row) + "\n" for row in rows.tolist()))
    return len(rows)

"""A drive as a viser scene, for the recorded viewer of the site and for the live one.

Layers by name: /points/colour, /points/confidence, /points/chunk (one is visible at a time), /path, /cameras, /loops,
/stretches, /now (the camera of the current frame), /others/N (trajectories of other results).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DriveError
from pipeline.publish.poses import quaternion_from_rotation
from pipeline.report.colours import LEVELS, PATH, chunk_colours, confidence_colours, confidence_range
from pipeline.report.drive_view import DriveView, FloatArray
from pipeline.report.sample import PointSample

if TYPE_CHECKING:
    import viser

COLOURS = ("colour", "confidence", "chunk")
"""What the colour of points can show."""

_MOST_CAMERAS = 250  # frustums that are drawn: more would hide the street
_LIFT = 0.15  # height of lines above the path, in typical distances of frames, so that neither hides the other


@dataclass(frozen=True, eq=False)
class OtherPath:
    """A trajectory to draw beside the drive's own: its name, colour, and positions (n, 3) in the drive's world."""

    name: str
    colour: tuple[int, int, int]
    positions: FloatArray


def viser_module() -> ModuleType:
    """The viser module. Raises DriveError that names the extra where it is not installed."""
    try:
        import viser
    except ImportError:
        raise DriveError("the 3D viewer needs viser: pip install '.[view]'") from None
    return viser


def add_layers(scene: viser.SceneApi, view: DriveView, sample: PointSample, others: Sequence[OtherPath] = ()) -> None:
    """Add all layers to a viser scene; points are visible in true colour."""
    scene.set_up_direction(tuple(view.up))
    add_points(scene, view, sample)
    _add_lines(scene, "/path", _joined(view.path), PATH, view, 3.0)
    _add_cameras(scene, view)
    _add_loops(scene, view)
    _add_stretches(scene, view)
    for number, other in enumerate(others):
        _add_lines(scene, f"/others/{number}", _joined(other.positions), other.colour, view, 3.0)
    add_current(scene, view)


def add_points(scene: viser.SceneApi, view: DriveView, sample: PointSample) -> None:
    """Add the points three times, with different colours; the recording stores their positions once."""
    if not len(sample):
        return
    by = {
        "colour": sample.rgb,
        "confidence": confidence_colours(sample.confidence, confidence_range(sample.confidence)),
        "chunk": chunk_colours(view.drive.manifest.counts.chunks)[sample.chunk],
    }
    size = point_size(sample.xyz, view.step)
    for name in COLOURS:
        scene.add_point_cloud(
            f"/points/{name}",
            sample.xyz,
            by[name],
            point_size=size,
            point_shape="rounded",
            point_shading="flat",
            precision="float32",
            visible=name == "colour",
        )


def point_size(xyz: NDArray[np.float32], step: float) -> float:
    """The size at which points are drawn (world units): about their distance where most of them are, at most a third of
    the typical distance of frames, `step`.

    Points (n, 3) are on surfaces, so k points in a cube with side `step` have a distance of step / sqrt(k).
    """
    _, count = np.unique(np.floor(xyz / max(step, 1e-9)).astype(np.int64), axis=0, return_counts=True)
    crowded = float(np.median(np.repeat(count, count))) if len(count) else 1.0
    return float(np.clip(1.4 * step / np.sqrt(max(crowded, 1.0)), 0.02 * step, 0.35 * step))


def add_current(scene: viser.SceneApi, view: DriveView, frame: int | None = None) -> viser.CameraFrustumHandle:
    """Add the camera of the current frame, as a frustum larger than the others. Returns its handle."""
    frame = int(np.flatnonzero(view.known)[0]) if frame is None else frame
    row = view.drive.poses.slice(frame, 1).to_pylist()[0]
    aspect = row["width"] / row["height"]
    tall = row["height"] / row["fy"] if row["fy"] else 1.0
    pose = view.poses[frame]
    return scene.add_camera_frustum(
        "/now",
        fov=2 * float(np.arctan(tall / 2)),
        aspect=aspect,
        scale=3.0 * view.step,
        thickness=2.5,
        thickness_units="screen",
        color=(255, 255, 255),
        wxyz=quaternion_from_rotation(pose[:3, :3]),
        position=pose[:3, 3],
    )


def frustum_lines(poses: FloatArray, half: tuple[float, float], depth: float) -> NDArray[np.float32]:
    """Line segments (n * 8, 2, 3) of the frustums of n cameras (n, 4, 4). depth: of the image plane; half: half its
    width and height for a depth of 1."""
    x, y = half[0] * depth, half[1] * depth
    corners = np.array([[-x, -y, depth], [x, -y, depth], [x, y, depth], [-x, y, depth]])
    world = np.einsum("nij,kj->nki", poses[:, :3, :3], corners) + poses[:, None, :3, 3]  # (n, 4, 3)
    apex = np.broadcast_to(poses[:, None, :3, 3], world.shape)
    sides = np.stack([apex, world], 2)
    rim = np.stack([world, np.roll(world, -1, axis=1)], 2)
    return np.concatenate([sides, rim], 1).reshape(-1, 2, 3).astype(np.float32)


def _add_cameras(scene: viser.SceneApi, view: DriveView) -> None:
    shown = np.flatnonzero(view.known)
    if not len(shown):
        return
    shown = shown[np.unique(np.linspace(0, len(shown) - 1, min(len(shown), _MOST_CAMERAS)).round().astype(int))]
    row = view.drive.poses.slice(int(shown[0]), 1).to_pylist()[0]
    half = (row["width"] / row["fx"] / 2, row["height"] / row["fy"] / 2) if row["fx"] and row["fy"] else (0.5, 0.5)
    lines = frustum_lines(view.poses[shown], half, 1.2 * view.step)
    colours = np.repeat(chunk_colours(view.drive.manifest.counts.chunks)[view.chunk[shown]], 8, axis=0)
    # seen from the car's own camera, frustums of other frames hide the view: they are thin, and a switch hides them
    scene.add_line_segments(
        "/cameras", lines, np.repeat(colours[:, None], 2, axis=1), thickness=1.0, thickness_units="screen"
    )


def _add_loops(scene: viser.SceneApi, view: DriveView) -> None:
    for name, wanted, colour in (("accepted", True, (86, 211, 194)), ("rejected", False, (150, 80, 90))):
        ends = [(a, b) for a, b, accepted in view.loops if accepted is wanted and view.known[a] and view.known[b]]
        if ends:
            lines = np.array([[view.poses[a, :3, 3], view.poses[b, :3, 3]] for a, b in ends])
            _add_lines(scene, f"/loops/{name}", lines, colour, view, 2.5)


def _add_stretches(scene: viser.SceneApi, view: DriveView) -> None:
    """Bad parts of the path, thick and a little above it."""
    for level in ("warn", "fail"):
        lines = []
        for one in view.stretches:
            frames = np.arange(one.start, min(one.stop + 1, len(view.frames)))
            frames = frames[view.known[frames]]
            if one.level == level and not one.is_everywhere and len(frames) > 1:
                lines.append(_joined(view.poses[frames, :3, 3]))
        if lines:
            _add_lines(scene, f"/stretches/{level}", np.concatenate(lines), LEVELS[level], view, 7.0)


def _add_lines(
    scene: viser.SceneApi, name: str, lines: FloatArray, colour: tuple[int, int, int], view: DriveView, pixels: float
) -> None:
    if len(lines):
        lifted = (lines + view.up * _LIFT * view.step).astype(np.float32)
        scene.add_line_segments(name, lifted, colour, thickness=pixels, thickness_units="screen")


def _joined(positions: FloatArray) -> FloatArray:
    """(n, 3) -> the segments (n - 1, 2, 3) between neighbours."""
    return np.stack([positions[:-1], positions[1:]], 1) if len(positions) > 1 else np.empty((0, 2, 3))

"""Renders views of a drive from chosen cameras, and the same views of other results, for the slider of the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.publish import PublishedDrive
from pipeline.report.comparison import Trajectory
from pipeline.report.drive_view import DriveView, FloatArray
from pipeline.report.images import spread
from pipeline.report.render import Camera, look_at, render_points
from pipeline.report.sample import PointSample, sample_points
from pipeline.report.scene import point_size

WIDTH, HEIGHT = 960, 540
_PLACES = 3  # along the drive
_LOCAL_POINTS = 400_000  # around one place: more cannot be distinguished at this picture size
_AROUND = 60.0  # distance around a place that is shown, in typical distances between frames
_FIELD = np.radians(60.0)


@dataclass(frozen=True, eq=False)
class View:
    """A camera with a title. frame: the frame at whose place it is, None for the whole drive; ego: it is the camera of
    that frame."""

    title: str
    frame: int | None
    ego: bool
    camera: Camera


def chosen_views(view: DriveView) -> tuple[View, ...]:
    """Views of the whole drive from above, and at some frames from behind and through the car's own camera."""
    frames = np.flatnonzero(view.known)
    views = [View("whole drive, from above", None, False, overview_camera(view))]
    for place in spread(len(frames), _PLACES + 2)[1:-1] or [0]:
        frame = int(frames[place])
        views.append(View(f"frame {frame}, camera view", frame, True, _own_camera(view, frame)))
        views.append(View(f"frame {frame}, from behind", frame, False, chase_camera(view, frame)))
    return tuple(views)


def overview_camera(view: DriveView, width: int = WIDTH, height: int = HEIGHT) -> Camera:
    """A camera above the middle of the path, tilted, so far away that the whole path is visible."""
    on_map = view.on_map(view.path)
    low, high = on_map.min(0), on_map.max(0)
    middle = view.path.mean(0)
    middle = middle + ((low + high) / 2 - view.on_map(middle)) @ view.ground
    reach = max(float((high - low).max()) * 0.62, 12 * view.step)
    forward = view.ground[1]
    away = (view.up * 0.8 - forward * 0.6) * reach / np.tan(_FIELD / 2) * 1.05
    return _pinhole(look_at(middle + away, middle, view.up), width, height)


def chase_camera(view: DriveView, frame: int, width: int = WIDTH, height: int = HEIGHT) -> Camera:
    """A camera behind and above that of a frame, looking along the street."""
    pose = view.poses[frame]
    forward = pose[:3, 2] - view.up * (pose[:3, 2] @ view.up)
    forward = forward / max(float(np.linalg.norm(forward)), 1e-9)
    at = pose[:3, 3]
    eye = at - forward * 9 * view.step + view.up * 5 * view.step
    return _pinhole(look_at(eye, at + forward * 9 * view.step, view.up), width, height)


def render_views(view: DriveView, views: tuple[View, ...], whole: PointSample) -> Iterator[NDArray[np.uint8]]:
    """Pictures (h, w, 3) of the drive itself, in the order of the views. whole: a sample of all its points."""
    for one in views:
        sample = whole if one.frame is None else _around(view.drive, view, one.frame, None)
        yield render_points(sample.xyz, sample.rgb, one.camera, point_size(sample.xyz, view.step))


def render_other(
    view: DriveView, views: tuple[View, ...], other: Trajectory, budget: int
) -> Iterator[NDArray[np.uint8]]:
    """The same views of another published result, aligned to the drive."""
    assert other.drive is not None, "a file of poses has no points to render"
    whole = sample_points(other.drive, budget)
    own_step = view.step / other.world_from_other.scale  # in the other's units
    for one in views:
        sample = whole if one.frame is None else _around(other.drive, view, one.frame, other)
        size = point_size(sample.xyz, own_step) * other.world_from_other.scale
        yield render_points(sample.xyz, sample.rgb, one.camera, size, other.world_from_other)


def _around(drive: PublishedDrive, view: DriveView, frame: int, other: Trajectory | None) -> PointSample:
    """Points near a frame, of the drive or of another result. They are read by a box, which touches few row groups."""
    centre, reach = view.poses[frame, :3, 3], _AROUND * view.step
    if other is not None:
        into = other.world_from_other.inverse()
        centre, reach = into.apply(centre), reach * into.scale
    return sample_points(drive, _LOCAL_POINTS, (tuple(centre - reach), tuple(centre + reach)))


def _own_camera(view: DriveView, frame: int) -> Camera:
    row = view.drive.poses.slice(frame, 1).to_pylist()[0]
    width, height = int(row["width"]), int(row["height"])
    scale = WIDTH / width
    if row["fx"]:
        intrinsics = tuple(float(row[name]) * scale for name in ("fx", "fy", "cx", "cy"))
    else:  # a filled frame has no intrinsics
        intrinsics = (WIDTH / 2, WIDTH / 2, WIDTH / 2, height * scale / 2)
    return Camera(view.poses[frame], intrinsics, WIDTH, max(round(height * scale), 1))  # type: ignore[arg-type]


def _pinhole(pose: FloatArray, width: int, height: int) -> Camera:
    focal = height / 2 / np.tan(_FIELD / 2)
    return Camera(pose, (focal, focal, width / 2, height / 2), width, height)

"""Windows of frames of published drives for joint chunks: which frames, how they are read, and what was published of
them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cameras.rectify import View
from pipeline.errors import DecodeError
from pipeline.fuse.published_drives import FusibleDrive
from pipeline.ingest import preprocess
from pipeline.ingest.joint_task import FrameWindow
from pipeline.publish import PublishedDrive
from pipeline.publish.frame_source import FRAME_MARK

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

_CONFIDENCE = 2.0  # of a pixel with a published point; all count alike


@dataclass(frozen=True, eq=False)
class PublishedFrames:
    """Published poses and depth of n frames as a chunk's prediction (`PosedDepth`), in drive units: depth (n, h, w) is
    that of the drive's own points, NaN where there is none."""

    frame_index: Numbers
    cam_from_world: Array
    intrinsics: Array
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]


def window_around(usable: NDArray[np.bool_], camera: Numbers, place: int, size: int) -> Numbers:
    """The `size` usable frames of one camera around a frame, as rising indices; fewer if it has fewer.

    usable (M,): whether a frame counts (that at `place` does in any case); camera (M,): number of its camera. The
    window is shifted inside at the ends of the drive, as those of loop chunks are.
    """
    of = np.flatnonzero((camera == camera[place]) & (usable | (np.arange(len(usable)) == place)))
    start = int(np.searchsorted(of, place)) - size // 2
    start = max(min(start, len(of) - size), 0)
    return np.asarray(of[start : start + size], np.int64)


def window_of(drive: FusibleDrive, place: int, size: int) -> Numbers:
    """The window around a frame of a drive. Frames whose poses come from neighbours (the car stood, or the picture was
    bad) are left out."""
    return window_around(~drive.opened.cameras.filled, drive.rig.camera, place, size)


def network_size(drive: FusibleDrive, image_size: int, patch_size: int) -> tuple[int, int]:
    """Height and width of the network's pictures of a drive."""
    cameras, rows = drive.opened.cameras, drive.opened.camera_rows
    width, height = cameras.sizes[0]
    if cameras.models:  # pictures of several sizes were rectified to one
        width, height = rows[0]["view_width"], rows[0]["view_height"]
    return preprocess.target_size(int(width), int(height), image_size, patch_size)


def frame_window(drive: FusibleDrive, places: Sequence[int] | Numbers, size: tuple[int, int]) -> FrameWindow:
    """How the frames at these indices are read, as for the drive's own reconstruction. size: height and width of the
    network's pictures. Raises DriveError for frames that are not in the drive's input; StorageError."""
    cameras, opened = drive.opened.cameras, drive.opened
    named = [cameras.uris[place] for place in places]
    uris = tuple(opened.frame_source.locate(uri) for uri in named)
    is_film = FRAME_MARK in named[0]
    width, height = (int(value) for value in cameras.sizes[places[0]])
    return FrameWindow(
        drive.drive_id,
        tuple(int(cameras.frame_index[place]) for place in places),
        uris,
        tuple(int(uri.rpartition(FRAME_MARK)[2]) for uri in named) if is_film else None,
        (width, height),
        _view(opened, int(cameras.frame_index[places[0]]), size),
        opened.manifest.turn,
        preprocess.WHITE if is_film else _white(opened, named[0]),
    )


def _view(opened: PublishedDrive, frame: int, size: tuple[int, int]) -> View | None:
    """How a frame is rectified for the network; None for a pinhole."""
    height, width = size
    return opened.network_view(frame, width, height)


def _white(opened: PublishedDrive, uri: str) -> int:
    """The value of white in a drive's pictures; a picture that cannot be read is a bad frame later."""
    try:
        data = opened.frame_source.read_image(uri)
        return preprocess.white_of([data]) if preprocess.read_header(data).is_deep else preprocess.WHITE
    except DecodeError:
        return preprocess.WHITE


def published_frames(drive: FusibleDrive, places: Numbers, size: tuple[int, int]) -> PublishedFrames:
    """Poses and depth of the frames at these indices, as they were published. size: height and width of the network's
    pictures. Raises DriveError, StorageError where points cannot be read."""
    cameras, (height, width) = drive.opened.cameras, size
    number, count = cameras.frame_index[places], len(places)
    table = drive.opened.points(columns=["x", "y", "z", "frame_index"], frames=(int(number[0]), int(number[-1]) + 1))
    xyz = np.stack([table[axis].to_numpy() for axis in "xyz"], -1).astype(np.float64)
    of = table["frame_index"].to_numpy()
    depth = np.full((count, height, width), np.nan, np.float32)
    matrix = np.tile(np.eye(3), (count, 1, 1))
    view = _view(drive.opened, int(number[0]), size)  # a window is of one camera
    for n, place in enumerate(places.tolist()):
        pose = cameras.world_from_camera[place]
        k = _network_intrinsics(cameras.intrinsics[place], cameras.sizes[place], size)
        if view is not None:
            k = np.asarray(view.pinhole.intrinsics)
        matrix[n, [0, 1, 0, 1], [0, 1, 2, 2]] = k
        local = (xyz[of == number[n]] - pose[:3, 3]) @ pose[:3, :3]
        depth[n] = _depth_map(local, k, size)
    return PublishedFrames(
        number,
        np.asarray(np.linalg.inv(cameras.world_from_camera[places])[:, :3], np.float64),
        matrix,
        depth,
        np.where(np.isfinite(depth), _CONFIDENCE, 0.0).astype(np.float32),
    )


def _network_intrinsics(intrinsics: Array, source: Numbers, size: tuple[int, int]) -> Array:
    """(4,) fx fy cx cy of a pinhole in pixels of the network's picture, from those in pixels of the source image."""
    width, height = (int(value) for value in source)
    geometry = preprocess.frame_geometry(width, height, *size)
    scale = np.array([geometry.resized_width / width, geometry.resized_height / height])
    moved = np.asarray(intrinsics, np.float64) * np.concatenate([scale, scale])
    return np.asarray(moved - np.array([0, 0, geometry.left, geometry.top]))


def _depth_map(local: Array, k: Array, size: tuple[int, int]) -> NDArray[np.float32]:
    """Depth (h, w) of the nearest of some points (m, 3) in each pixel, NaN where there is none."""
    height, width = size
    front = local[local[:, 2] > 0]
    pixel = np.floor(front[:, :2] / front[:, 2:] * k[:2] + k[2:])
    inside = ((pixel >= 0) & (pixel < (width, height))).all(1)
    u, v = pixel[inside].astype(np.int64).T
    nearest = np.full((height, width), np.inf)
    np.minimum.at(nearest, (v, u), front[inside, 2])
    return np.where(np.isfinite(nearest), nearest, np.nan).astype(np.float32)

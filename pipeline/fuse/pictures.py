"""Reads a frame of a published drive as a grey pinhole picture, with the drive's points around it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.cameras.rectify import View
from pipeline.drive_images import read_frames
from pipeline.errors import PipelineError
from pipeline.fuse.published_drives import SeenDrive
from pipeline.ingest.preprocess import rectified_image

Array = NDArray[np.float64]

_AROUND = 5  # a frame's depths come from points of so many instants before and after it
_MOST_POINTS = 400_000  # that are used for a picture
_LONG_SIDE = 1280  # pixels: larger pictures are reduced


def grey_picture(drive: SeenDrive, place: int) -> tuple[NDArray[np.uint8], Array] | str:
    """Frame `place` of the drive's arrays as a grey picture (h, w) of a pinhole camera, and its intrinsics (4,): fx fy
    cx cy in pixels; or the reason why it cannot be read."""
    cameras, opened = drive.opened.cameras, drive.opened
    frame = int(cameras.frame_index[place])
    try:
        # Frame numbers are rows of the poses table, by which read_frames counts.
        (_, image), *_ = list(read_frames(opened, [frame]))
        if isinstance(image, str):
            return f"drive {drive.drive_id}: frame {frame} cannot be read: {image}"
        return _picture(image, np.asarray(cameras.intrinsics[place], np.float64), opened.undistorted_view(frame))
    except PipelineError as error:
        return f"drive {drive.drive_id}: frame {frame}: {' '.join(str(error).split())}"


def points_around(drive: SeenDrive, place: int) -> Array | str:
    """Points (m, 3) that the drive saw around frame `place`, in its camera's axes and drive units; or the reason why
    they cannot be read."""
    cameras, opened = drive.opened.cameras, drive.opened
    frame, around = int(cameras.frame_index[place]), _AROUND * drive.rig.count
    low, high = max(frame - around, 0), frame + around + 1
    try:
        table = opened.points(columns=["x", "y", "z"], frames=(low, high))
    except PipelineError as error:
        return f"drive {drive.drive_id}: frame {frame}: {' '.join(str(error).split())}"
    xyz = np.stack([table[axis].to_numpy() for axis in "xyz"], -1).astype(np.float64)
    xyz = xyz[:: max(len(xyz) // _MOST_POINTS, 1)]
    pose = cameras.world_from_camera[place]
    return np.asarray((xyz - pose[:3, 3]) @ pose[:3, :3])


def _picture(image: Image.Image, intrinsics: Array, view: View | None) -> tuple[NDArray[np.uint8], Array]:
    if view is not None:
        image = Image.fromarray(rectified_image(image.convert("RGB"), view))
        intrinsics = np.asarray(view.pinhole.intrinsics)
    grey = np.asarray(image.convert("L"))
    factor = _LONG_SIDE / max(grey.shape)
    if factor < 1:
        size = (round(grey.shape[1] * factor), round(grey.shape[0] * factor))
        scale = np.array([size[0] / grey.shape[1], size[1] / grey.shape[0]])
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
        intrinsics = intrinsics * np.concatenate([scale, scale])
    return grey, intrinsics

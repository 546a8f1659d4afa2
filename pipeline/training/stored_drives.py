"""Stored drives with poses and depth as training data, in the layout that `jobs.synthesize` writes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import DriveError, StorageError
from pipeline.ingest.preprocess import frame_geometry, prepare_image, target_size
from pipeline.synthetic import TrueDrive, list_drives, read_drive
from pipeline.training.data import Clip, Frames


class StoredClip:
    """A whole drive as one clip. Frames are read and resized to the network's size (height, width) on request."""

    def __init__(self, drive: TrueDrive, height: int, width: int) -> None:
        self.drive, self.height, self.width = drive, height, width

    def __len__(self) -> int:
        return len(self.drive.image_uris)

    def read(self, frames: Sequence[int]) -> Frames:
        """These frames of the drive, in this order. Raises DriveError if a frame and its depth differ in size."""
        images, depths, intrinsics = zip(*(self._frame(i) for i in frames), strict=True)
        return Frames(
            np.stack(images), np.stack(depths), self.drive.world_from_camera[list(frames)], np.stack(intrinsics)
        )

    def _frame(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float64]]:
        image, depth = Image.fromarray(self.drive.image(index)), self.drive.depth(index)
        if depth.shape != (image.height, image.width):
            raise DriveError(
                f"drive {self.drive.drive_id}, frame {index}: expected depth of the image's size "
                f"{image.width}x{image.height}, found {depth.shape[1]}x{depth.shape[0]}"
            )
        geometry = frame_geometry(image.width, image.height, self.height, self.width)
        # depth must not be interpolated over edges: each pixel takes the nearest source pixel
        rows = (np.arange(self.height) + geometry.top + 0.5) * image.height / geometry.resized_height
        columns = (np.arange(self.width) + geometry.left + 0.5) * image.width / geometry.resized_width
        near = depth[rows.astype(int).clip(0, image.height - 1)][:, columns.astype(int).clip(0, image.width - 1)]
        k = self.drive.intrinsics.copy()
        k[0] *= geometry.resized_width / image.width
        k[1] *= geometry.resized_height / image.height
        k[0, 2] -= geometry.left
        k[1, 2] -= geometry.top
        return prepare_image(image, self.height, self.width), near, k


class StoredSource:
    """All drives with poses below some root folders. They are checked when the source is made.

    Raises DriveError for a drive without poses, depth or enough frames, or of another size; StorageError if the store
    fails.
    """

    def __init__(self, roots: Sequence[str], *, width: int, patch: int, least_frames: int = 2) -> None:
        self._drives: list[list[Clip]] = []
        sizes: dict[tuple[int, int], str] = {}
        for root in roots:
            try:
                names = list_drives(root)
            except StorageError as error:
                raise StorageError(f"{root}: training needs poses (poses/<id>.txt): {error}") from error
            if not names:
                raise DriveError(
                    f"{root}: expected poses/<id>.txt of at least one drive, found none: training needs poses"
                )
            for name in names:
                drive = read_drive(root, name)
                if drive.depth_uris is None:
                    raise DriveError(f"drive {name}: training needs depth images (depth_0/ or depth_2/), found none")
                if len(drive.image_uris) < least_frames:
                    raise DriveError(
                        f"drive {name}: the longest chunk has {least_frames} frames, the drive {len(drive.image_uris)}"
                    )
                first = drive.image(0)
                height, _ = target_size(first.shape[1], first.shape[0], width, patch)
                sizes.setdefault((height, width), name)
                self._drives.append([StoredClip(drive, height, width)])
        if len(sizes) > 1:
            described = ", ".join(f"{w}x{h} ({name})" for (h, w), name in sizes.items())
            raise DriveError(f"all drives of a run must have one size at the network's width, found {described}")

    def drives(self) -> Sequence[Sequence[Clip]]:
        """Every drive as a list of one clip."""
        return self._drives

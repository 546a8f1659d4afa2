"""Grey pictures of a drive as pinhole cameras in the city take them, read again from the drive's input when needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.drive_images import read_frames
from pipeline.errors import PipelineError
from pipeline.ingest.preprocess import rectified_image
from pipeline.publish import PublishedDrive

Array = NDArray[np.float64]
Grey = NDArray[np.float32]

_LONG_SIDE = 640  # pixels: larger pictures are reduced
_HELD = 256  # pictures of a drive that are kept, 0.2 MB each of the usual size


class DrivePictures:
    """The pictures of a drive.

    city_from_camera (N, 4, 4): poses of its cameras, in the order of opened.cameras; camera_count: cameras whose frames
    alternate; long_side: pixels, larger pictures are reduced. Attributes: pose (N, 4, 4); intrinsics (N, 4): fx fy cx
    cy, and sizes (N, 2): width height, both of the reduced pictures; frame_index (N,).
    """

    def __init__(
        self, opened: PublishedDrive, city_from_camera: Array, camera_count: int = 1, long_side: int = _LONG_SIDE
    ) -> None:
        self._opened = opened
        cameras = opened.cameras
        self.pose, self.frame_index, self.camera_count = city_from_camera, cameras.frame_index, camera_count
        intrinsics, sizes = cameras.intrinsics.copy(), cameras.sizes.copy()
        for number in range(opened.camera_count):
            view, mine = opened.undistorted_view(number), cameras.frame_index % opened.camera_count == number
            if view is not None:
                intrinsics[mine], sizes[mine] = view.pinhole.intrinsics, (view.width, view.height)
        factor = np.minimum(long_side / sizes.max(1, keepdims=True), 1.0)
        self.sizes = np.round(sizes * factor).astype(np.int64)
        scale = self.sizes / sizes
        self.intrinsics = intrinsics * np.concatenate([scale, scale], 1)
        self._made: OrderedDict[int, NDArray[np.uint8] | None] = OrderedDict()

    def read(self, places: Iterable[int]) -> dict[int, Grey]:
        """Pictures (h, w) of cameras, by row; those that cannot be read are left out."""
        wanted = sorted(set(places))
        answer = {place: self._made[place] for place in wanted if place in self._made}
        missing = [place for place in wanted if place not in self._made]
        for place, image in zip(missing, self._images(missing), strict=True):
            answer[place] = self._made[place] = None if image is None else self._grey(image, place)
        for place in wanted:
            self._made.move_to_end(place)
        while len(self._made) > _HELD:
            self._made.popitem(last=False)
        return {place: grey.astype(np.float32) for place, grey in answer.items() if grey is not None}

    def colours(self, place: int, pixel: Array) -> NDArray[np.uint8]:
        """Colours (n, 3) at pixels (n, 2) of the reduced picture of a camera; grey where it cannot be read."""
        (image,) = self._images([place])
        if image is None:
            return np.full((len(pixel), 3), 128, np.uint8)
        at = np.clip((pixel / self.sizes[place] * image.size).astype(np.int64), 0, np.array(image.size) - 1)
        return np.asarray(np.asarray(image)[at[:, 1], at[:, 0]], np.uint8)

    def _images(self, places: list[int]) -> Iterator[Image.Image | None]:
        frames = [int(self.frame_index[place]) for place in places]
        given = 0
        try:
            for frame, image in read_frames(self._opened, frames) if frames else ():
                given += 1
                yield None if isinstance(image, str) else self._as_pinhole(image, frame)
        except PipelineError:  # the input is gone
            pass
        yield from [None] * (len(frames) - given)

    def _as_pinhole(self, image: Image.Image, frame: int) -> Image.Image:
        rgb, view = image.convert("RGB"), self._opened.undistorted_view(frame)
        return rgb if view is None else Image.fromarray(rectified_image(rgb, view))

    def _grey(self, image: Image.Image, place: int) -> NDArray[np.uint8]:
        grey = np.asarray(image.convert("L"), np.uint8)
        width, height = (int(n) for n in self.sizes[place])
        if grey.shape == (height, width):
            return grey
        return np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), np.uint8)

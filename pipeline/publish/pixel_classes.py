"""The class of each pixel of a frame, which its point gets: sky, the car itself, or unknown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline import schema
from pipeline.common.chunk_prediction import SeenColours
from pipeline.publish.sky import SkyFinder
from pipeline.publish.trajectory import Trajectory


class PixelClasses:
    """The classes of the pixels of one chunk's frames."""

    def __init__(self, chunk: SeenColours, trajectory: Trajectory, ego: Sequence[NDArray[np.bool_]]) -> None:
        """ego: a mask (h, w) for each camera, True where its pictures show the car; empty where that is not known."""
        self._index = np.asarray(chunk.frame_index, np.int64)
        self._ego = ego
        poses = trajectory.world_from_camera[self._index].copy()
        poses[:, :3, 3] /= float(np.median(trajectory.depth_scale[self._index]))
        intrinsics = np.broadcast_to(chunk.intrinsics, (len(self._index), 3, 3))
        known = np.isfinite(poses).all((1, 2)) & np.asarray(chunk.ok, bool)
        self._sky = SkyFinder(chunk.rgb, chunk.depth, intrinsics, poses, known)

    def of(self, place: int) -> NDArray[np.uint8]:
        """The classes (h, w) of the frame at this place of the chunk."""
        kinds = np.where(self._sky.of(place), schema.SKY, schema.UNKNOWN).astype(np.uint8)
        if self._ego:
            kinds[self._ego[self._index[place] % len(self._ego)]] = schema.EGO
        return kinds

"""The cameras of a published drive as arrays: poses and intrinsics of the frames that have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline import schema
from pipeline.cameras.camera import Camera
from pipeline.publish.poses import rotation_from_quaternion

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cameras:
    """N frames of a drive that have a pose, in drive order.

    frame_index (N,) rising; world_from_camera (N, 4, 4), OpenCV axes; intrinsics (N, 4) fx fy cx cy and sizes (N, 2)
    width height in pixels of the source image; filled (N,): pose taken from neighbours; timestamps_ns (N,) or None;
    uris (N,) of the images; lens: the camera model where all frames have one and it is no pinhole, else None; models:
    of a rig whose cameras differ, else empty: frame f was taken by models[f % len(models)].
    """

    frame_index: NDArray[np.int64]
    world_from_camera: Floats
    intrinsics: Floats
    sizes: NDArray[np.int64]
    filled: NDArray[np.bool_]
    timestamps_ns: NDArray[np.int64] | None
    uris: tuple[str, ...]
    lens: Camera | None = None
    models: tuple[Camera, ...] = ()

    def __len__(self) -> int:
        return len(self.frame_index)

    @staticmethod
    def of(
        poses: pa.Table,
        frames: Sequence[int] | None = None,
        lens: Camera | None = None,
        models: tuple[Camera, ...] = (),
    ) -> Cameras:
        """The cameras in a table of schema.POSES. frames: the first and one past the last of the wanted frames; lens,
        models: see the class (models have precedence). Frames without a pose are left out."""
        status = np.array(poses["status"].to_pylist(), dtype=object)
        index = poses["frame_index"].to_numpy().astype(np.int64)
        use = status != schema.MISSING
        if frames is not None:
            use &= (index >= frames[0]) & (index < frames[1])
        table = poses.filter(pa.array(use.astype(bool)))

        def columns(*names: str) -> Floats:
            return np.stack([table[name].to_numpy().astype(np.float64) for name in names], -1)

        world_from_camera = np.tile(np.eye(4), (table.num_rows, 1, 1))
        world_from_camera[:, :3, :3] = rotation_from_quaternion(columns("qw", "qx", "qy", "qz"))
        world_from_camera[:, :3, 3] = columns("x", "y", "z")
        known = table.num_rows > 0 and not table["timestamp_ns"].null_count
        return Cameras(
            index[use],
            world_from_camera,
            columns("fx", "fy", "cx", "cy"),
            columns("width", "height").astype(np.int64),
            status[use] == schema.FILLED,
            table["timestamp_ns"].to_numpy().astype(np.int64) if known else None,
            tuple(table["uri"].to_pylist()),
            None if models else lens,
            models,
        )

    def model_of(self, place: int) -> Camera | None:
        """The camera model of a row, where it is no pinhole."""
        if not self.models:
            return self.lens
        model = self.models[self.frame_index[place] % len(self.models)]
        return None if model.is_pinhole else model

    def looking_ahead(self) -> Cameras:
        """The same cameras; those of equirectangular images look to the middle of the image, as other programs expect.
        Their poses are turned so that every point keeps its pixel."""
        lenses = self.models or (() if self.lens is None else (self.lens,))
        ahead = tuple(replace(one, cx=one.width / 2) if one.model == "equirectangular" else one for one in lenses)
        if ahead == lenses:
            return self
        angle = np.array([(new.cx - old.cx) / old.fx for old, new in zip(lenses, ahead, strict=True)])
        number = self.frame_index % len(lenses)
        turn = np.tile(np.eye(4), (len(self), 1, 1))
        turn[:, :3, :3] = Rotation.from_rotvec(angle[number, None] * (0.0, 1.0, 0.0)).as_matrix()
        intrinsics = self.intrinsics.copy()
        intrinsics[:, 2] = np.array([one.cx for one in ahead])[number]
        return replace(
            self,
            world_from_camera=self.world_from_camera @ turn,
            intrinsics=intrinsics,
            lens=None if self.models else ahead[0],
            models=ahead if self.models else (),
        )

    def places(self, frame_index: NDArray[np.integer]) -> NDArray[np.int64]:
        """The row of each of these frame numbers (n,); -1 where there is no camera for a frame."""
        if not len(self):
            return np.full(len(frame_index), -1)
        place = np.minimum(np.searchsorted(self.frame_index, frame_index), len(self) - 1)
        return np.where(self.frame_index[place] == frame_index, place, -1)

    def project(self, places: NDArray[np.integer] | int, xyz: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """Project world points (n, 3), each into the camera of its row (n,), or all into that of one row.

        Returns pixels of the source image (n, 2), NaN where the camera does not see the point, and z-depth (n,) in
        world units."""
        pose, k = self.world_from_camera[places], self.intrinsics[places]
        away = np.asarray(xyz, np.float64) - pose[..., :3, 3]
        rotation = pose[..., :3, :3]
        local = away @ rotation if rotation.ndim == 2 else np.einsum("ni,nij->nj", away, rotation)
        depth = local[:, 2]
        if self.lens is not None:
            return self.lens.project(local), depth
        if self.models:
            return self._by_models(np.broadcast_to(self.frame_index[places], depth.shape), local), depth
        front = np.where(depth > 0, depth, np.nan)
        return k[..., :2] * local[:, :2] / front[:, None] + k[..., 2:], depth

    def _by_models(self, frame: NDArray[np.int64], local: Floats) -> Floats:
        """Pixels (n, 2) of points (n, 3) in their cameras' axes, each in a frame (n,)."""
        pixels = np.full((len(local), 2), np.nan)
        for number, model in enumerate(self.models):
            mine = frame % len(self.models) == number
            pixels[mine] = model.project(local[mine])
        return pixels

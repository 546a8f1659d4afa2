"""Cameras of one car: their names, and where each of them sits where that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rig:
    """Two cameras or more that one car carries.

    cameras: names, the reference first, whose pose is the rig's. rig_from_camera: a pose a camera, 3 x 4 row by row,
    metres, OpenCV axes; None where it is to be estimated; the reference's is the identity. Raises ValueError for fewer
    than two cameras, names that occur twice, or numbers that are no rigid motion.
    """

    cameras: tuple[str, ...]
    rig_from_camera: tuple[tuple[float, ...] | None, ...]

    def __post_init__(self) -> None:
        if len(self.cameras) < 2 or len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"a rig has two cameras or more with different names, got {', '.join(self.cameras)}")
        if len(self.rig_from_camera) != len(self.cameras):
            raise ValueError(f"expected {len(self.cameras)} poses of cameras, got {len(self.rig_from_camera)}")
        for name, pose in zip(self.cameras, self.rig_from_camera, strict=True):
            if pose is None:
                continue
            matrix = np.asarray(pose, np.float64)
            turn = matrix.reshape(3, 4)[:, :3] if matrix.shape == (12,) else np.full((3, 3), np.nan)
            rigid = np.isfinite(matrix).all() and np.abs(turn @ turn.T - np.eye(3)).max() < 1e-3
            if not rigid or np.linalg.det(turn) < 0:
                raise ValueError(f"camera {name}: expected a rotation and a place, 12 numbers, got {pose[:12]}")

    @staticmethod
    def of(poses: Mapping[str, NDArray[np.float64] | None], reference: str) -> Rig:
        """Of poses (4, 4) of cameras in any common frame, None where unknown; `reference` becomes the rig."""
        names = [reference, *(name for name in poses if name != reference)]
        base = poses.get(reference)
        given: list[tuple[float, ...] | None] = [tuple(np.eye(4)[:3].ravel().tolist())]
        for name in names[1:]:
            pose = poses[name]
            known = base is not None and pose is not None
            given.append(tuple((np.linalg.inv(base) @ pose)[:3].ravel().tolist()) if known else None)  # type: ignore
        return Rig(tuple(names), tuple(given))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Rig:  # Rig checks its values
        """What `to_dict` gave."""
        poses = tuple(None if pose is None else tuple(map(float, pose)) for pose in values["rig_from_camera"])
        return Rig(tuple(values["cameras"]), poses)

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON; equal ones give equal results."""
        poses = [None if pose is None else list(pose) for pose in self.rig_from_camera]
        return {"cameras": list(self.cameras), "rig_from_camera": poses}

    def __len__(self) -> int:
        return len(self.cameras)

    @property
    def poses(self) -> NDArray[np.float64]:
        """rig_from_camera (C, 4, 4), NaN where unknown."""
        matrices = np.full((len(self), 4, 4), np.nan)
        for number, pose in enumerate(self.rig_from_camera):
            if pose is not None:
                matrices[number] = np.eye(4)
                matrices[number, :3] = np.reshape(pose, (3, 4))
        return matrices

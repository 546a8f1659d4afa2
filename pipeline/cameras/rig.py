"""The cameras of one car: their names, and their poses on the car as far as they are known."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rig:
    """At least two cameras on one car.

    cameras: names, the reference first; its pose is that of the rig. rig_from_camera: the pose of each camera, 3 x 4
    numbers row by row, metres, OpenCV axes; None where it must be estimated; the reference's is the identity.
    out_of_step: cameras that take their pictures now before, now after the reference. The car moves in between, so
    their places in the pictures are not those on the car: they are estimated. late: by how much each camera's pictures
    are always later than the reference's, as a share of the usual time between two instants, at most 1, negative for
    earlier ones; empty where all are 0. Raises ValueError for fewer than two cameras, names that occur twice, or
    numbers that are not a rigid motion or not such shares.
    """

    cameras: tuple[str, ...]
    rig_from_camera: tuple[tuple[float, ...] | None, ...]
    out_of_step: tuple[str, ...] = ()
    late: tuple[float, ...] = ()

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
                raise ValueError(f"camera {name}: expected a rotation and a position, 12 numbers, got {pose[:12]}")
        if self.late and (len(self.late) != len(self) or self.late[0] or not all(abs(one) <= 1 for one in self.late)):
            raise ValueError(f"late: expected {len(self)} shares from -1 to 1, the first one 0, got {self.late}")
        if not any(self.late):
            object.__setattr__(self, "late", ())

    @staticmethod
    def of(
        poses: Mapping[str, NDArray[np.float64] | None],
        reference: str,
        out_of_step: Collection[str] = (),
        late: Mapping[str, float] | None = None,
    ) -> Rig:
        """A rig from poses (4, 4) of cameras in any common frame, None where unknown; the camera `reference` becomes
        the rig's reference. late: of cameras that are not at the time of the reference."""
        names = [reference, *(name for name in poses if name != reference)]
        base = poses.get(reference)
        given: list[tuple[float, ...] | None] = [tuple(np.eye(4)[:3].ravel().tolist())]
        for name in names[1:]:
            pose = poses[name]
            known = base is not None and pose is not None
            given.append(tuple((np.linalg.inv(base) @ pose)[:3].ravel().tolist()) if known else None)  # type: ignore
        apart = tuple(name for name in names[1:] if name in out_of_step)
        return Rig(tuple(names), tuple(given), apart, tuple((late or {}).get(name, 0.0) for name in names))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Rig:  # Rig checks its values
        """The rig of a dictionary that `to_dict` returned. Raises ValueError, KeyError or TypeError for another one."""
        poses = tuple(None if pose is None else tuple(map(float, pose)) for pose in values["rig_from_camera"])
        late = tuple(map(float, values.get("late", ())))
        return Rig(tuple(values["cameras"]), poses, tuple(values.get("out_of_step", ())), late)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON. Equal rigs give equal values."""
        poses = [None if pose is None else list(pose) for pose in self.rig_from_camera]
        said: dict[str, object] = {"cameras": list(self.cameras), "rig_from_camera": poses}
        if self.out_of_step:
            said["out_of_step"] = list(self.out_of_step)
        return {**said, "late": list(self.late)} if self.late else said

    def __len__(self) -> int:
        return len(self.cameras)

    @property
    def lateness(self) -> NDArray[np.float64]:
        """`late` as an array (C,), zeros where it is empty."""
        return np.array(self.late or (0.0,) * len(self))

    @property
    def poses(self) -> NDArray[np.float64]:
        """rig_from_camera (C, 4, 4), NaN where unknown: all of it, or the position of a camera that is out of step."""
        matrices = np.full((len(self), 4, 4), np.nan)
        for number, pose in enumerate(self.rig_from_camera):
            if pose is not None:
                matrices[number] = np.eye(4)
                matrices[number, :3] = np.reshape(pose, (3, 4))
            if self.cameras[number] in self.out_of_step:
                matrices[number, :3, 3] = np.nan
        return matrices

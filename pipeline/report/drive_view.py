"""A drive prepared for display: its path, its quality by frame, the up direction, the typical distance of frames."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import PosedFrames
from pipeline.evaluation.sources import published_frames
from pipeline.publish import PublishedDrive

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Stretch:
    """A finding of the verdict: level (warn, fail), kind, reason, and the frames [start, stop) that it concerns."""

    level: str
    kind: str
    reason: str
    start: int
    stop: int

    @property
    def is_everywhere(self) -> bool:
        """Whether it concerns the whole drive; such a finding is not marked on the path."""
        return self.kind == "drive"


@dataclass(frozen=True, eq=False)
class DriveView:
    """The data of a drive that its pictures need. frames: N poses; NaN where a pose is missing."""

    drive: PublishedDrive
    frames: PosedFrames

    @staticmethod
    def of(drive: PublishedDrive) -> DriveView:
        """Read a published drive's poses."""
        return DriveView(drive, published_frames(drive))

    @property
    def drive_id(self) -> str:
        return self.drive.manifest.drive_id

    @property
    def poses(self) -> FloatArray:
        """world_from_camera (N, 4, 4)."""
        return self.frames.world_from_camera

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,): the frames that have a pose."""
        return self.frames.known

    @cached_property
    def path(self) -> FloatArray:
        """Positions (n, 3) of the frames that have one, in drive order."""
        return self.poses[self.known, :3, 3]

    @cached_property
    def up(self) -> FloatArray:
        """Unit vector (3,) away from the street: the mean up direction of the cameras (their y points down); for a
        georeferenced drive the vertical."""
        if self.drive.origin is not None:
            return np.array([0.0, 0.0, 1.0])
        up = -self.poses[self.known, :3, 1].sum(0) if self.known.any() else np.zeros(3)
        length = float(np.linalg.norm(up))
        return up / length if length > 1e-6 else np.array([0.0, -1.0, 0.0])

    @cached_property
    def ground(self) -> FloatArray:
        """(2, 3): the right and up axes of a map seen from above. Up on the map is forward at the first frame; for a
        georeferenced drive the axes are east and north."""
        if self.drive.origin is not None:
            return np.eye(3)[:2]
        forward = self.poses[self.known][0, :3, 2] if self.known.any() else np.array([0.0, 0.0, 1.0])
        forward = forward - self.up * (forward @ self.up)
        if np.linalg.norm(forward) < 1e-6:  # the first camera looks straight up or down
            forward = np.cross(self.up, (1.0, 0.0, 0.0))
        forward = forward / np.linalg.norm(forward)
        return np.stack([np.cross(forward, self.up), forward])

    def on_map(self, points: FloatArray) -> FloatArray:
        """Points (..., 3) -> (..., 2) on the map: right, forward."""
        return np.asarray(points @ self.ground.T)

    @cached_property
    def step(self) -> float:
        """A typical distance between neighbouring frames, in world units; above zero."""
        if len(self.path) < 2:
            return 1.0
        steps = np.linalg.norm(np.diff(self.path, axis=0), axis=1)
        moving = steps[steps > 0.1 * steps.max()] if steps.max() > 0 else steps
        return float(np.median(moving)) if len(moving) and steps.max() > 0 else 1.0

    @cached_property
    def length(self) -> float:
        """Length of the path, world units."""
        return float(np.linalg.norm(np.diff(self.path, axis=0), axis=1).sum())

    @property
    def is_metric(self) -> bool:
        """Whether the drive's own unit is a metre."""
        return self.drive.manifest.metric is not None

    @cached_property
    def fixes(self) -> tuple[tuple[float, float, bool], ...]:
        """For a georeferenced drive every fix: east and north in metres, and whether it was used."""
        table = self.drive.positions
        if table is None or self.drive.origin is None:
            return ()
        east, north = (table[name].to_numpy(zero_copy_only=False).astype(float) for name in ("east", "north"))
        used = table["used"].to_numpy(zero_copy_only=False)
        there = np.isfinite(east) & np.isfinite(north)
        rows = zip(east[there].tolist(), north[there].tolist(), used[there].tolist(), strict=True)
        return tuple((x, y, bool(ok)) for x, y, ok in rows)

    @cached_property
    def verdict(self) -> str:
        """pass, warn, fail, or unknown for a result without one."""
        return str(self.drive.manifest.quality.get("verdict", "unknown"))

    @cached_property
    def stretches(self) -> tuple[Stretch, ...]:
        """The verdict's findings."""
        return tuple(
            Stretch(f.level, f.kind, f.reason, f.frame_start, f.frame_stop) for f in self.drive.manifest.findings
        )

    @cached_property
    def confidence(self) -> FloatArray:
        """(N,) median depth confidence of each frame, NaN where it has none."""
        return np.asarray(self.drive.poses["confidence"].to_numpy(zero_copy_only=False), np.float64)

    @cached_property
    def chunk(self) -> NDArray[np.int64]:
        """(N,) chunk that owns each frame, -1 for none."""
        return np.asarray(self.drive.poses["chunk_index"].fill_null(-1).to_numpy(), np.int64)

    @cached_property
    def loops(self) -> tuple[tuple[int, int, bool], ...]:
        """For every loop the middle frames of its earlier and its later window, and whether it was accepted."""
        rows = self.drive.loops.to_pylist()
        return tuple(
            (
                (int(r["first_start"]) + int(r["first_stop"])) // 2,
                (int(r["second_start"]) + int(r["second_stop"])) // 2,
                bool(r["accepted"]),
            )
            for r in rows
        )

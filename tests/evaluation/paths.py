"""Trajectories and drives with truth for the tests of evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from pipeline.publish import DriveFacts, PublishConfig, publish_drive
from tests.publish.drives import Chunk, Joined, Listed, Similarity, run_facts

HEIGHT, WIDTH = 16, 24  # of the true images
FOCAL = 20.0


def walk(count: int, seed: int = 0, step: float = 1.0, turn: float = 0.05) -> np.ndarray:
    """A random drive (count, 4, 4): forward by about `step` metres and turning by about `turn` a frame."""
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    for i in range(1, count):
        motion = np.eye(4)
        motion[:3, :3] = Rotation.from_rotvec(rng.normal(0, turn, 3)).as_matrix()
        motion[:3, 3] = rng.normal((0, 0, step), 0.2 * step)
        poses[i] = poses[i - 1] @ motion
    return poses


def drifted(truth: np.ndarray, seed: int = 1, position: float = 0.1, turn: float = 0.02) -> np.ndarray:
    """The same drive with noise on every motion."""
    rng = np.random.default_rng(seed)
    poses = truth.copy()
    for i in range(1, len(truth)):
        motion = np.linalg.inv(truth[i - 1]) @ truth[i]
        motion[:3, :3] = motion[:3, :3] @ Rotation.from_rotvec(rng.normal(0, turn, 3)).as_matrix()
        motion[:3, 3] += rng.normal(0, position, 3)
        poses[i] = poses[i - 1] @ motion
    return poses


def moved(poses: np.ndarray, scale: float, seed: int = 5) -> np.ndarray:
    """The same trajectory in another world: rotated, shifted, with `scale` units per metre."""
    rng = np.random.default_rng(seed)
    turn = Rotation.from_rotvec(rng.normal(0, 1, 3)).as_matrix()
    out = poses.copy()
    out[:, :3, :3] = turn @ poses[:, :3, :3]
    out[:, :3, 3] = scale * poses[:, :3, 3] @ turn.T + rng.normal(0, 10, 3)
    return out


def streets(*corners: float, straight: float = 30.0, radius: float = 8.0, step: float = 0.7) -> np.ndarray:
    """A level drive (n, 4, 4): straight, a corner of the first angle (degrees, right positive), straight, and so on."""
    curvature: list[float] = []
    for corner in (*corners, None):
        curvature += [0.0] * int(straight / step)
        if corner is not None:
            length = int(np.radians(abs(corner)) * radius / step)
            curvature += [np.radians(corner) / length] * length
    poses = np.tile(np.eye(4), (len(curvature) + 1, 1, 1))
    for i, angle in enumerate(curvature):
        motion = np.eye(4)
        motion[:3, :3] = Rotation.from_rotvec((0, angle, 0)).as_matrix()
        motion[:3, 3] = (np.sin(angle / 2) * step, 0, np.cos(angle / 2) * step)
        poses[i + 1] = poses[i] @ motion
    return poses


def write_kitti_poses(path: Path, poses: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, poses[:, :3].reshape(-1, 12))


def write_tum(path: Path, poses: np.ndarray, times: np.ndarray) -> None:
    quaternions = Rotation.from_matrix(poses[:, :3, :3]).as_quat()
    np.savetxt(path, np.concatenate([times[:, None], poses[:, :3, 3], quaternions], 1), fmt="%.9f")


def true_depth(frame: int) -> np.ndarray:
    """(HEIGHT, WIDTH) metres in steps that a 16-bit image holds exactly; the top quarter is sky."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    depth = 4.0 + frame + 0.25 * columns + 0.5 * (HEIGHT - rows)
    depth[: HEIGHT // 4] = 0
    return depth


def write_truth(root: Path, poses: np.ndarray, drive_id: str = "07", *, depth: bool = True, times: bool = True) -> Path:
    """A drive with truth in KITTI's layout; returns its sequence folder."""
    sequence = root / "sequences" / drive_id
    (sequence / "image_0").mkdir(parents=True)
    if depth:
        (sequence / "depth_0").mkdir()
    for frame in range(len(poses)):
        Image.new("L", (WIDTH, HEIGHT), 90).save(sequence / "image_0" / f"{frame:06d}.png")
        if depth:
            stored = np.round(true_depth(frame) * 256).astype(np.uint16)
            Image.fromarray(stored).save(sequence / "depth_0" / f"{frame:06d}.png")
    k = f"{FOCAL} 0 {WIDTH / 2 - 0.5} 0 0 {FOCAL} {HEIGHT / 2 - 0.5} 0 0 0 1 0"
    (sequence / "calib.txt").write_text(f"P0: {k}\n")
    if times:
        (sequence / "times.txt").write_text("".join(f"{0.1 * i:.6e}\n" for i in range(len(poses))))
    write_kitti_poses(root / "poses" / f"{drive_id}.txt", poses)
    return sequence


def publish(
    output: Path,
    poses: np.ndarray,
    depth: np.ndarray,
    *,
    drive_id: str = "07",
    confidence: np.ndarray | None = None,
    source: tuple[int, int] = (WIDTH, HEIGHT),
    bad: tuple[int, ...] = (),
    numbers: np.ndarray | None = None,
    times: bool = True,
    options: PublishConfig | None = None,
) -> str:
    """Publish poses (n, 4, 4) and depth (n, h, w), both in world units, as two chunks; returns the drive's folder.

    numbers (n,): which frames of the truth these are. The camera is that of `write_truth`.
    """
    count, height, width = depth.shape
    numbers = np.arange(count) if numbers is None else numbers
    scale = width / source[0]
    k = np.array([[FOCAL * scale, 0, width / 2], [0, FOCAL * scale, height / 2], [0, 0, 1.0]])
    half = count // 2
    chunks = [
        Chunk(
            np.array(frames),
            np.tile(k, (len(frames), 1, 1)),
            depth[frames].astype(np.float32),
            (np.full(depth.shape, 5.0) if confidence is None else confidence)[frames].astype(np.float32),
            # pictures that move: what stands still in them is taken for sky or for the car itself
            np.random.default_rng(int(frames[0])).integers(0, 255, (len(frames), height, width, 3), np.uint8),
            np.array([frame not in bad for frame in frames]),
        )
        for frames in (np.arange(half), np.arange(half, count))
    ]
    joined = Joined(
        np.arange(count),
        np.linalg.inv(poses[0]) @ poses,
        (np.arange(count) >= half).astype(int),
        np.ones(count),
        [Similarity(1.0, np.eye(3), np.zeros(3))] * 2,
    )
    facts = DriveFacts(
        drive_id=drive_id,
        source_uri="/data",
        frame_uris=[f"/data/image_0/{i:06d}.png" for i in numbers],
        timestamps_ns=[int(i) * 100_000_000 for i in numbers] if times else None,
        source_width=source[0],
        source_height=source[1],
        net_width=width,
        net_height=height,
        listing=[Listed("a", 1)],
    )
    publish_drive(str(output), facts, chunks, joined, options or PublishConfig(), run_facts())
    return str(output / drive_id)

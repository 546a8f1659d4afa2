"""Simulated drives through one town, each in its own frame and units, and true links between them."""

import numpy as np

from pipeline.backend.join import Edge, JoinResult
from pipeline.backend.sim3 import Sim3, rotation_exp
from pipeline.fuse import Link

STEP, HALF = 10, 10  # frames between two chunks' reference frames, and from one to a chunk's end


def town_path(frames: int, start: float) -> np.ndarray:
    """Camera poses (frames, 4, 4) in metres along a winding street; start: metres along it to the first frame."""
    along = start + np.arange(frames) * 1.0
    position = np.stack([30 * np.sin(along / 40), 0.5 * np.sin(along / 25), along + 10 * np.cos(along / 30)], 1)
    ahead = np.gradient(position, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    right = np.cross([0, 1.0, 0], ahead)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = np.stack([right, np.cross(ahead, right), ahead], 2)
    poses[:, :3, 3] = position
    return poses


def drive_in(gauge: Sim3, truth: np.ndarray) -> JoinResult:
    """The result of joining a drive without errors. truth (N, 4, 4): poses in metres; gauge: drive_from_metres."""
    poses = gauge.transform_pose(truth)
    count = len(truth)
    middles = np.arange(HALF, max(count - HALF // 2, HALF + 1), STEP)
    chunks = [Sim3(gauge.scale, poses[m, :3, :3], poses[m, :3, 3]) for m in middles]
    covariance = np.diag(np.array([0.01, 0.002, 0.002, 0.002] + [0.05 * gauge.scale] * 3) ** 2)
    edges = [
        Edge(k, k + 1, STEP, STEP, 0.0, 0.0, 0.0, 1.0, 0.01, (1.0, 1.0, 1.0), 1.0, covariance, False)
        for k in range(len(chunks) - 1)
    ]
    owner = np.clip((np.arange(count) - HALF + STEP // 2) // STEP, 0, len(chunks) - 1)
    return JoinResult(
        np.arange(count),
        poses,
        owner,
        np.full(count, gauge.scale),
        np.zeros(count, bool),
        tuple(chunks),
        tuple((int(m - HALF), int(m + HALF)) for m in middles),
        tuple(edges),
        (),
        1.0,
    )


def link_between(
    gauges: list[Sim3], truths: list[np.ndarray], ends: tuple[int, int, int, int], wrong: Sim3 | None = None
) -> Link:
    """The true link for ends = (first drive, frame, second drive, frame). wrong: an error, which moves the first camera
    in the town, in metres."""
    a, i, b, j = ends
    first = Sim3.from_matrix(truths[a][i])
    if wrong is not None:
        first = wrong @ first
    metres = Sim3.from_matrix(truths[b][j]).inverse() @ first
    units = gauges[b].scale
    relative = Sim3(metres.scale * units / gauges[a].scale, metres.rotation, metres.translation * units)
    deviation = np.array([0.003] * 3 + [0.1 * units] * 3 + [0.01])
    return Link(a, i, b, j, relative, np.diag(deviation**2))


def gauges_of(count: int, seed: int) -> list[Sim3]:
    """drive_from_metres of each drive; the first one is the identity."""
    rng = np.random.default_rng(seed)
    others = [
        Sim3(float(np.exp(rng.normal(0, 0.5))), rotation_exp(rng.normal(0, 1, 3)), rng.normal(0, 50, 3))
        for _ in range(count - 1)
    ]
    return [Sim3.identity(), *others]

"""Simulates many drives through a city: place descriptors, chunk graphs and true links, without pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.join import Edge, JoinResult
from pipeline.backend.sim3 import Sim3, rotation_exp
from pipeline.fuse import Link
from pipeline.fuse.candidates import Candidate

Array = NDArray[np.float64]

_BLOCK_M, _STEP_M = 80.0, 1.2  # metres: side of a block, distance between two frames
_CHUNK, _OVERLAP = 60, 30  # frames
DESCRIBED = 10
"""Frames between two descriptors."""
_WIDTH = 64  # of a descriptor: that of whitened descriptors of a large city
_TURN, _PLACE, _SCALE = 0.0006, 0.002, 0.002  # error of a joint: radians, share of its length, log scale
_LINK = np.array([0.004] * 3 + [0.1] * 3 + [0.02])  # deviation of a link: radians, metres, log scale
_NOISE = 0.6  # deviation of a descriptor from that of its place


@dataclass(frozen=True, eq=False)
class MadeUpCity:
    """Simulated drives. drives: as joining returns them, each in its own frame and units, with errors that accumulate;
    truth (N / 10, 4, 4) of each: true poses of every tenth frame, metres; rows (M, 64), drive (M,), frame (M,): unit
    descriptors of those frames."""

    drives: tuple[JoinResult, ...]
    truth: tuple[Array, ...]
    rows: NDArray[np.float32]
    drive: NDArray[np.int64]
    frame: NDArray[np.int64]

    def link(self, one: Candidate, rng: np.random.Generator) -> Link | None:
        """The result that verification would have: a true link with noise, None if the frames do not see the same
        place."""
        first = self.truth[one.first][one.first_frame // DESCRIBED]
        second = self.truth[one.second][one.second_frame // DESCRIBED]
        metres = np.linalg.inv(second) @ first
        if np.linalg.norm(metres[:3, 3]) > 15.0 or metres[2, 2] < 0.7:
            return None
        unit = [self._unit(*end) for end in ((one.first, one.first_frame), (one.second, one.second_frame))]
        deviation = _LINK * np.array([1] * 3 + [unit[1]] * 3 + [1])
        noise = rng.normal(0, deviation)
        relative = Sim3(
            float(unit[1] / unit[0] * np.exp(noise[6])),
            rotation_exp(noise[:3]) @ metres[:3, :3],
            metres[:3, 3] * unit[1] + noise[3:6],
        )
        return Link(one.first, one.first_frame, one.second, one.second_frame, relative, np.diag(deviation**2))

    def wrong_link(self, rng: np.random.Generator) -> Link:
        """A wrong link, between two random frames."""
        a, b = rng.choice(len(self.drives), 2, replace=False)
        i, j = (int(rng.integers(len(self.truth[n]))) * DESCRIBED for n in (a, b))
        unit = [self._unit(int(a), i), self._unit(int(b), j)]
        deviation = _LINK * np.array([1] * 3 + [unit[1]] * 3 + [1])
        relative = Sim3(unit[1] / unit[0], rotation_exp(rng.normal(0, 0.1, 3)), rng.normal(0, 2, 3) * unit[1])
        return Link(int(a), i, int(b), j, relative, np.diag(deviation**2))

    def _unit(self, drive: int, frame: int) -> float:
        """Units of the drive in a metre, near a frame."""
        near = slice(max(frame - 15, 0), frame + 16)
        own = self.drives[drive].world_from_camera[near, :3, 3]
        return float(np.linalg.norm(np.diff(own, axis=0), axis=1).sum() / (_STEP_M * (len(own) - 1)))


def made_up_city(drives: int, frames: int, seed: int = 0) -> MadeUpCity:
    """Drives along the streets of a square city, whose size is chosen so that each place is passed 3.5 times in each
    direction on average. drives: their number; frames: of each drive."""
    rng = np.random.default_rng(seed)
    blocks = max(round(np.sqrt(drives * frames * _STEP_M / (4 * 3.5 * _BLOCK_M))), 3)
    towards = rng.normal(size=(4, blocks + 1, blocks + 1, round(_BLOCK_M / 4), _WIDTH)).astype(np.float16)
    made, truth, rows = [], [], []
    for _ in range(drives):
        at, legs = _walk(rng, blocks, frames)
        poses = _poses(at, rng)
        made.append(_driven(poses, rng))
        truth.append(poses[::DESCRIBED].copy())
        some = np.arange(0, frames, DESCRIBED)
        known = towards[tuple(legs[some].T)].astype(np.float32)
        rows.append(known + _NOISE * rng.normal(size=known.shape).astype(np.float32))
    every = np.concatenate(rows)
    every /= np.linalg.norm(every, axis=1, keepdims=True)
    described = len(range(0, frames, DESCRIBED))
    return MadeUpCity(
        tuple(made),
        tuple(truth),
        every,
        np.repeat(np.arange(drives), described),
        np.tile(np.arange(0, frames, DESCRIBED), drives),
    )


def _walk(rng: np.random.Generator, blocks: int, frames: int) -> tuple[Array, NDArray[np.int64]]:
    """Positions (frames, 2) in metres, and the place (frames, 4) of each: direction, the crossing before it (x, y), and
    the number of 4 m steps from there."""
    ways = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
    at, way = rng.integers(0, blocks + 1, 2), int(rng.integers(4))
    place = np.zeros((frames, 2))
    legs = np.zeros((frames, 4), np.int64)
    per_block = round(_BLOCK_M / _STEP_M)
    for start in range(0, frames, per_block):
        options = [
            n
            for n in (way, way, (way + 1) % 4, (way - 1) % 4)
            if ((at + ways[n] >= 0) & (at + ways[n] <= blocks)).all()
        ]
        way = int(rng.choice(options)) if options else (way + 2) % 4
        count = min(per_block, frames - start)
        along = np.arange(count) * _STEP_M
        place[start : start + count] = at * _BLOCK_M + along[:, None] * ways[way]
        legs[start : start + count] = np.stack(
            [
                np.full(count, way),
                np.full(count, at[0]),
                np.full(count, at[1]),
                np.minimum(along // 4, _BLOCK_M / 4 - 1),
            ],
            1,
        )
        at = at + ways[way]
    return place, legs


def _poses(place: Array, rng: np.random.Generator) -> Array:
    """Poses (n, 4, 4) along a path (n, 2) on the plane y = 0, OpenCV axes (x right, y down, z forward)."""
    kernel = np.ones(9) / 9
    smooth = np.stack([np.convolve(np.pad(axis, 4, mode="edge"), kernel, "valid") for axis in place.T], 1)
    ahead = np.gradient(smooth, axis=0)
    heading = np.unwrap(np.arctan2(ahead[:, 0], ahead[:, 1]))
    poses = np.tile(np.eye(4), (len(place), 1, 1))
    poses[:, :3, :3] = rotation_exp(np.stack([0 * heading, heading, 0 * heading], 1))
    side = rng.normal(0, 0.5)
    poses[:, 0, 3] = smooth[:, 0] + side * np.cos(heading)
    poses[:, 2, 3] = smooth[:, 1] - side * np.sin(heading)
    return poses


def _driven(truth: Array, rng: np.random.Generator) -> JoinResult:
    """The result of joining a drive: chunks whose joints have errors, in the drive's own frame and units."""
    count, hop = len(truth), _CHUNK - _OVERLAP
    starts = np.arange(0, max(count - _OVERLAP, 1), hop)
    middle = np.minimum(starts + _CHUNK // 2, count - 1)
    unit = float(np.exp(rng.normal(0, 0.5)))
    chunks = [Sim3(unit, rotation_exp(rng.normal(0, 1, 3)), rng.normal(0, 50, 3))]
    edges = []
    for k in range(1, len(middle)):
        relative = np.linalg.inv(truth[middle[k - 1]]) @ truth[middle[k]]
        way = float(np.linalg.norm(relative[:3, 3]))
        turn, scale = rotation_exp(rng.normal(0, _TURN, 3)), float(np.exp(rng.normal(0, _SCALE)))
        step = Sim3(scale, relative[:3, :3] @ turn, relative[:3, 3] + rng.normal(0, _PLACE * way, 3))
        chunks.append(chunks[-1] @ step)
        deviation = np.array([_SCALE, *[_TURN] * 3, *[_PLACE * way * unit] * 3])
        edges.append(
            Edge(
                k - 1,
                k,
                _OVERLAP,
                _OVERLAP,
                0.0,
                0.0,
                0.0,
                1.0,
                0.01,
                (1.0, 1.0, 1.0),
                1.0,
                np.diag(deviation**2),
                False,
            )
        )
    owner = np.clip(np.searchsorted(middle, np.arange(count) - hop // 2), 0, len(middle) - 1)
    poses = np.empty_like(truth)
    for k, chunk in enumerate(chunks):
        mine = owner == k
        local = np.linalg.inv(truth[middle[k]]) @ truth[mine]
        poses[mine] = chunk.transform_pose(local)
    return JoinResult(
        np.arange(count),
        poses,
        owner,
        np.array([chunk.scale for chunk in chunks])[owner],
        np.zeros(count, bool),
        tuple(chunks),
        tuple((a, min(a + _CHUNK, count) - 1) for a in starts.tolist()),
        tuple(edges),
        (),
        1.0,
    )

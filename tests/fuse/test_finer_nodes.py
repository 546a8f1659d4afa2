"""Drives of few chunks get more nodes: frames and errors stay the same, and drives can bend inside a chunk."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from pipeline.backend import BackendConfig, JoinResult, Sim3
from pipeline.backend.sim3 import fit_similarity
from pipeline.fuse import Link, finer_nodes, solve
from pipeline.fuse.drive_nodes import frames_of, joints_of, own_state
from pipeline.fuse.finer_nodes import FEWEST_NODES, finer
from tests.fuse.made_up_drives import drive_in, town_path

CONFIG = BackendConfig()
FRAMES = 91


def of_three_chunks(seed: int) -> tuple[JoinResult, np.ndarray, np.ndarray]:
    """A drive whose scale changes by 2 % along each chunk; its true poses; its scale at each frame."""
    truth = town_path(FRAMES, 0.0)
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(FRAMES) / rng.uniform(8, 12) + rng.uniform(0, 6))
    scale = 1 + 0.02 * wave
    poses = truth.copy()
    steps = np.diff(truth[:, :3, 3], axis=0) * ((scale[1:] + scale[:-1]) / 2)[:, None]
    poses[1:, :3, 3] = poses[0, :3, 3] + np.cumsum(steps, axis=0)
    made = drive_in(Sim3.identity(), poses)
    middles = [15, 45, 75]
    chunks = tuple(Sim3(1.0, poses[m, :3, :3], poses[m, :3, 3]) for m in middles)
    covariance = np.diag(np.array([0.01, 0.002, 0.002, 0.002, 0.3, 0.3, 0.3]) ** 2)
    edges = tuple(replace(made.edges[k], covariance=covariance) for k in range(2))
    spans = tuple((m - 15, m + 15) for m in middles)
    owner = np.minimum(np.arange(FRAMES) // 30, 2)
    return replace(made, world_from_chunk=chunks, chunk_frames=spans, edges=edges, owner=owner), truth, scale


def test_frames_keep_their_poses_and_the_first_and_the_last_are_nodes() -> None:
    drive, _, _ = of_three_chunks(0)
    fine, joints = finer(drive, joints_of(drive, CONFIG))
    assert FEWEST_NODES <= len(fine.world_from_chunk) <= FEWEST_NODES + 4
    assert fine.chunk_frames[0] == (0, 0) and fine.chunk_frames[-1] == (FRAMES - 1, FRAMES - 1)
    rotation, position, log_scale = frames_of(fine, 0).place(own_state(fine))
    np.testing.assert_allclose(position, drive.world_from_camera[:, :3, 3], atol=1e-9)
    np.testing.assert_allclose(rotation, drive.world_from_camera[:, :3, :3], atol=1e-9)
    np.testing.assert_allclose(log_scale, 0, atol=1e-12)
    assert (joints.second == joints.first + 1).all() and len(joints.first) == len(fine.world_from_chunk) - 1


def test_the_new_joints_together_have_the_variances_of_the_old_one() -> None:
    drive, _, _ = of_three_chunks(0)
    joints = joints_of(drive, CONFIG, 0.0)
    fine, new = finer(drive, joints)
    middle = np.array([sum(span) / 2 for span in drive.chunk_frames])
    frame = np.array([span[0] for span in fine.chunk_frames])
    inside = (frame[new.first] >= middle[0]) & (frame[new.second] <= middle[1])
    total = np.linalg.inv(new.information[inside]).sum(0)
    old = np.linalg.inv(joints.information[0])
    assert np.trace(total[:3, :3]) == pytest.approx(np.trace(old[:3, :3]), rel=1e-6)
    assert total[6, 6] == pytest.approx(old[6, 6], rel=1e-6)
    assert 0.05 < np.trace(total[3:6, 3:6]) / np.trace(old[3:6, 3:6]) <= 1


def test_loops_of_the_drive_hold_the_nodes_at_the_middles_of_its_chunks() -> None:
    drive, _, _ = of_three_chunks(0)
    joints = joints_of(drive, CONFIG)
    looped = joints[np.array([0, 1, 0])]
    looped = replace(looped, second=np.array([1, 2, 2]))  # a loop after the overlaps
    fine, new = finer(drive, looped)
    assert [fine.chunk_frames[n][0] for n in (new.first[-1], new.second[-1])] == [15, 75]


@pytest.mark.parametrize("frames", [12, 140])
def test_a_drive_of_one_chunk_or_of_many_stays_as_it_is(frames: int) -> None:
    drive = drive_in(Sim3.identity(), town_path(frames, 0.0))
    assert len(drive.world_from_chunk) == 1 or len(drive.world_from_chunk) >= FEWEST_NODES
    joints = joints_of(drive, CONFIG)
    assert finer(drive, joints) == (drive, joints)


def test_drives_that_bend_inside_their_chunks_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight drives through one street with links between all of them: their independent errors become smaller."""
    made = [of_three_chunks(seed) for seed in range(8)]
    links = []
    for (a, (_, truth, first)), (b, (_, _, second)) in combinations(enumerate(made), 2):
        for at in range(5, FRAMES, 10):
            move = np.linalg.inv(truth[at]) @ truth[at + 1 if at + 1 < FRAMES else at]
            relative = Sim3(second[at] / first[at], move[:3, :3].T, -move[:3, :3].T @ move[:3, 3] * second[at])
            end = min(at + 1, FRAMES - 1)
            links.append(Link(a, at, b, end, relative, np.diag(np.array([0.003] * 3 + [0.02] * 3 + [0.03]) ** 2)))

    def metres_off() -> float:
        city = solve([drive for drive, _, _ in made], links)
        found = np.concatenate([one.city_from_camera[:, :3, 3] for one in city.drives])
        true = np.concatenate([truth[:, :3, 3] for _, truth, _ in made])
        return float(np.sqrt(((fit_similarity(found, true).apply(found) - true) ** 2).sum(1).mean()))

    fine = metres_off()
    monkeypatch.setattr(finer_nodes, "FEWEST_NODES", 0)
    assert fine < 0.7 * metres_off()

"""KITTI 00 as five drives, each joined alone, with links where the car comes back to a place."""

import sys

import numpy as np
import pytest

from pipeline.backend import JoinResult, Sim3, join_chunks
from pipeline.backend.sim3 import rotation_exp
from pipeline.fuse import Link, solve

PARTS = 5
DEVIATION = np.array([0.003] * 3 + [0.1] * 3 + [0.02])  # radians, metres, log scale


class Kitti:
    """The drives of a seed, and links with a noise of `DEVIATION`."""

    def __init__(self, shared, folder, seed):
        sys.path.insert(0, str(shared / "scenarios"))
        import chunked_drive

        self.ate = chunked_drive.ate
        self.truth = chunked_drive.read_kitti_poses(str(shared / "data/trajectories/KITTI_00_gt.txt"))
        self.cuts = np.linspace(0, len(self.truth), PARTS + 1).astype(int)
        self.of = np.searchsorted(self.cuts, np.arange(len(self.truth)), side="right") - 1
        self.rng = np.random.default_rng([seed, 5])
        self.drives: list[JoinResult] = []
        for k in range(PARTS):
            path = folder / f"part{k}.txt"
            np.savetxt(path, self.truth[self.cuts[k] : self.cuts[k + 1], :3].reshape(-1, 12))
            made = chunked_drive.make_scenario(str(path), seed=seed * 10 + k)
            self.drives.append(join_chunks(made.chunks, loop_chunks=made.loop_chunks, loop_pairs=made.loop_pairs))

    def unit(self, drive, frame):
        """Units of the drive in a metre, near a frame."""
        near = slice(max(frame - 15, 0), frame + 16)
        true = self.truth[self.cuts[drive] : self.cuts[drive + 1]][near, :3, 3]
        own = self.drives[drive].world_from_camera[near, :3, 3]
        return np.linalg.norm(np.diff(own, axis=0), axis=1).sum() / np.linalg.norm(np.diff(true, axis=0), axis=1).sum()

    def link(self, i, j, second_from_first):
        a, b = int(self.of[i]), int(self.of[j])
        unit_a, unit_b = (self.unit(d, n - self.cuts[d]) for d, n in ((a, i), (b, j)))
        deviation = DEVIATION * np.array([1] * 3 + [unit_b] * 3 + [1])
        noise = self.rng.normal(0, deviation)
        turn = rotation_exp(noise[:3]) @ second_from_first[:3, :3]
        shift = second_from_first[:3, 3] * unit_b + noise[3:6]
        relative = Sim3(unit_b / unit_a * np.exp(noise[6]), turn, shift)
        return Link(a, int(i - self.cuts[a]), b, int(j - self.cuts[b]), relative, np.diag(deviation**2))

    def true_links(self, count=24):
        centre, heading = self.truth[:, :3, 3], self.truth[:, :3, 2]
        pairs = []
        for i in range(0, len(self.truth), 5):
            earlier = np.arange(self.cuts[self.of[i]])
            if len(earlier):
                away = np.linalg.norm(centre[earlier] - centre[i], axis=1)
                away[heading[earlier] @ heading[i] < 0.9] = np.inf
                if away.min() < 4:
                    pairs.append((i, int(np.argmin(away))))
        chosen = np.unique(np.linspace(0, len(pairs) - 1, count).astype(int))
        return [self.link(i, j, np.linalg.inv(self.truth[j]) @ self.truth[i]) for i, j in (pairs[n] for n in chosen)]

    def wrong_links(self, count=10):
        """Links between frames of different places; the first two agree with each other."""
        made = []
        while len(made) < count:
            i, j = (int(n) for n in self.rng.integers(0, len(self.truth) - 20, 2))
            if self.of[i] == self.of[j] or self.of[i] != self.of[i + 20] or self.of[j] != self.of[j + 20]:
                continue
            near = np.eye(4)
            near[:3, :3], near[:3, 3] = rotation_exp(self.rng.normal(0, 0.05, 3)), self.rng.normal(0, 1, 3)
            made.append(self.link(i, j, near))
            if len(made) == 1:
                lie = self.truth[j] @ near @ np.linalg.inv(self.truth[i])
                made.append(self.link(i + 20, j + 20, np.linalg.inv(self.truth[j + 20]) @ lie @ self.truth[i + 20]))
        return made


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.full) for seed in (0, 2, 3, 4))])
def test_five_drives_become_one_city_and_ten_wrong_links_change_nothing(shared, tmp_path, seed):
    kitti = Kitti(shared, tmp_path, seed)
    good, bad = kitti.true_links(), kitti.wrong_links()
    city = solve(kitti.drives, good)
    error = kitti.ate(np.concatenate(city.city_from_camera), kitti.truth)
    print(f"\nseed {seed}: joint ATE {error:.3f} m over {len(kitti.truth)} frames")
    assert city.accepted.all() and error < 0.7
    spoilt = solve(kitti.drives, [*bad[:5], *good, *bad[5:]])
    assert spoilt.accepted.tolist() == [*[False] * 5, *[True] * len(good), *[False] * 5]
    again = kitti.ate(np.concatenate(spoilt.city_from_camera), kitti.truth)
    assert again == pytest.approx(error, abs=1e-4)

"""Where a large city hardly determines the ends of a link, that link alone is not believed: nearly any would agree."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.backend.sim3 import Sim3, rotation_exp
from pipeline.fuse import city_problem, consistent_links, solve
from pipeline.fuse.city_equations import Rows
from pipeline.fuse.compatible_links import compatible, confirmed
from pipeline.fuse.standing import Standing, StandingDrive
from tests.fuse.made_up_drives import drive_in, gauges_of, link_between, town_path

FRAMES, DRIVES, APART = 120, 14, 90  # metres between the starts of two drives, which are in one long street
NEAR, FAR = 0.05, 100.0  # deviations of the residuals of links whose ends are near each other, and far apart


def rows_and_covariance(rng, near, far, wrong):
    """Links at a place that the solution knows well, `far` true ones at another, whose distance it hardly knows, and
    one wrong one at a third: rows, covariance (7m, 7m) of their residuals."""
    shared = np.diag([0.1] * 3 + [FAR] * 3 + [0.3]) ** 2
    count = near + far + wrong
    group = np.repeat([0, 1, 2], [near, far, wrong])
    covariance = np.zeros((count, 7, count, 7))
    offset = [np.zeros(7), rng.multivariate_normal(np.zeros(7), shared), rng.multivariate_normal(np.zeros(7), shared)]
    residual = np.zeros((count, 7))
    noise = np.array([0.003] * 3 + [0.1] * 3 + [0.02])
    for n in range(count):
        for m in range(count):
            if group[n] == group[m] and group[n]:
                covariance[n, :, m] = shared
        covariance[n, :, n] += NEAR**2 * np.diag([0.01] * 3 + [1] * 3 + [0.01])
        residual[n] = offset[group[n]] + rng.normal(0, noise)
    information = np.tile(np.diag(1 / noise**2), (count, 1, 1))
    return Rows(residual, np.zeros((count, 7, 28)), np.zeros((count, 4), int), information), covariance.reshape(
        7 * count, 7 * count
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([0, 2, 3]))
def test_far_links_that_confirm_each_other_are_believed_and_one_alone_is_not(seed, near, far):
    rows, covariance = rows_and_covariance(np.random.default_rng(seed), near, far, 1)
    reach = np.full(len(rows.residual), 1000.0)
    assert compatible(rows, covariance)[0][-1]  # it agrees with the solution, as nearly any link there would
    sure, chi2, _ = confirmed(rows, covariance, reach)
    assert sure.tolist() == [True] * (near + far) + [False] and np.isfinite(chi2).all()


def chain(seed):
    """Drives one after another in a street, each with links to the next, and a last one beside the first."""
    truths = [town_path(FRAMES, APART * n) for n in range(DRIVES)] + [town_path(FRAMES, 20.0)]
    gauges = gauges_of(len(truths), seed)
    drives = [drive_in(gauge, truth) for gauge, truth in zip(gauges, truths, strict=True)]
    ends = [(n, APART + k, n + 1, k) for n in range(DRIVES - 1) for k in (3, 10, 17, 24)]
    ends += [(0, 20 + k, DRIVES, k) for k in (5, 30, 55, 80)]
    return drives, [link_between(gauges, truths, one) for one in ends], gauges, truths


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10**6))
def test_no_wrong_link_to_the_other_end_of_a_large_city_is_believed(seed):
    drives, links, gauges, truths = chain(seed)
    rng = np.random.default_rng(seed)
    lie = Sim3(1.0, rotation_exp(np.array([0, rng.normal(0, 0.1), 0])), rng.normal(0, 40, 3) * [1, 0, 1])
    lie = link_between(gauges, truths, (DRIVES - 1, 60, DRIVES, 60), lie)
    few, small = city_problem._FEW, consistent_links._SMALL
    city_problem._FEW = consistent_links._SMALL = 0
    try:
        city = solve(drives, [lie, *links])
    finally:
        city_problem._FEW, consistent_links._SMALL = few, small
    assert city.accepted.tolist() == [False] + [True] * len(links)
    assert "contradicts" in city.links[0].reason
    for found, true in zip(city.city_from_camera, truths, strict=True):
        assert np.abs(found[:, :3, 3] - true[:, :3, 3]).max() < 0.1


def bent(truth, begin, off):
    """A path (N, 4, 4) that from frame `begin` on turns aside, by `off` metres at its end."""
    far = np.maximum(np.arange(len(truth)) - begin, 0) / (len(truth) - begin)
    poses = truth.copy()
    slope = 2 * off * far / (len(truth) - begin)
    poses[:, :3, :3] = rotation_exp(np.stack([0 * far, slope, 0 * far], 1)) @ poses[:, :3, :3]
    poses[:, 0, 3] += off * far**2
    return poses


def test_a_lone_link_to_the_far_end_of_a_drive_that_is_added_is_believed_if_the_last_solution_agrees(monkeypatch):
    """By the deviations with which links are judged, nearly any link would agree there. The drive is 6 m off."""
    monkeypatch.setattr(city_problem, "_FEW", 0)
    monkeypatch.setattr(consistent_links, "_SMALL", 0)
    length, last = 550, 540  # frames; the one with the lone link
    truths = [town_path(FRAMES, APART * n) for n in range(DRIVES)] + [town_path(length, 20.0)]
    gauges = gauges_of(len(truths), 0)
    drives = [drive_in(gauge, truth) for gauge, truth in zip(gauges, truths[:-1], strict=False)]
    ends = [(n, APART + k, n + 1, k) for n in range(DRIVES - 1) for k in (3, 10, 17, 24)]
    links = [link_between(gauges, truths, one) for one in ends]
    before = solve(drives, links)
    standing = Standing(
        {n: StandingDrive(one.city_from_camera, one.depth_scale) for n, one in enumerate(before.drives)},
        {n: (one.accepted, one.chi2) for n, one in enumerate(before.links)},
    )
    drives.append(drive_in(gauges[-1], bent(truths[-1], 90, 6.0)))
    links += [link_between(gauges, truths, (0, 20 + k, DRIVES, k)) for k in (5, 30, 55, 80)]
    other, frame = divmod(last + 20, APART)
    links.append(link_between(gauges, truths, (other, frame, DRIVES, last)))
    city = solve(drives, links, standing=standing)
    assert city.accepted.all()
    off = city.city_from_camera[-1][:, :3, 3] - truths[-1][:, :3, 3]
    assert np.abs(off[last]).max() < 0.5 and np.abs(off).max() < 2

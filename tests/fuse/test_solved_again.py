"""A solution that begins with that of the last round is as good as one from scratch, also where that one was wrong."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.backend.sim3 import Sim3, rotation_exp
from pipeline.fuse import solve
from pipeline.fuse.consistent_links import Grouping
from pipeline.fuse.run import begun_with
from pipeline.fuse.solved_again import firm_groups
from tests.fuse.made_up_drives import link_between
from tests.fuse.test_solve import TRUE_ENDS, metres_off, town

LIE = Sim3(1.0, rotation_exp(np.array([0, 0.4, 0])), np.ones(3) * 30)
MORE = [(0, 85, 1, 27), (1, 95, 2, 26), (2, 70, 3, 22), (2, 80, 3, 30), (2, 99, 3, 49)]


@pytest.mark.parametrize("few", [400, 0])
def test_new_links_join_the_last_solution_without_joining_its_drives_again(few, monkeypatch):
    monkeypatch.setattr("pipeline.fuse.city_problem._FEW", few)
    gauges, truths, drives = town()
    links = [link_between(gauges, truths, ends) for ends in TRUE_ENDS]
    more = [link_between(gauges, truths, ends) for ends in MORE] + [link_between(gauges, truths, (0, 30, 3, 60), LIE)]
    before = solve(drives, links)
    joined = []
    join = Grouping._join
    monkeypatch.setattr(Grouping, "_join", lambda self, *a: (joined.append(a), join(self, *a)))
    city = solve(drives, [*links, *more], standing=begun_with(before))
    assert not joined and city.accepted.tolist() == [True] * (len(links) + len(MORE)) + [False]
    assert metres_off(city, truths) < 1e-3 and {drive.component for drive in city.drives} == {0}


@pytest.mark.parametrize("lies", [1, 2])
@pytest.mark.parametrize("few", [400, 0])
def test_wrong_links_that_joined_drives_in_the_last_round_are_rejected_once_others_contradict_them(
    lies, few, monkeypatch
):
    monkeypatch.setattr("pipeline.fuse.city_problem._FEW", few)
    gauges, truths, drives = town()
    links = [link_between(gauges, truths, ends) for ends in TRUE_ENDS[:4]]
    links += [link_between(gauges, truths, (2, 60 + 20 * n, 3, 12 + 20 * n), LIE) for n in range(lies)]
    before = solve(drives, links)
    assert before.accepted.all()  # nothing contradicts them yet
    more = [link_between(gauges, truths, ends) for ends in MORE]
    city = solve(drives, [*links, *more], standing=begun_with(before))
    scratch = solve(drives, [*links, *more])
    assert city.accepted.tolist() == scratch.accepted.tolist() == [True] * 4 + [False] * lies + [True] * len(MORE)
    assert metres_off(city, truths) < 1e-3


def test_a_component_of_the_last_round_that_was_on_earth_begins_in_the_frame_of_its_first_drive():
    gauges, truths, drives = town()
    links = [link_between(gauges, truths, ends) for ends in TRUE_ENDS]
    standing = begun_with(solve(drives, links))
    earth = Sim3(2.0, rotation_exp(np.array([0.1, 0.2, 0.3])), np.array([100.0, 200, 30]))
    for one in standing.drives.values():
        one.city_from_camera[:] = earth.transform_pose(one.city_from_camera)
        one.depth_scale[:] *= 2.0
    assert metres_off(solve(drives, links, standing=standing), truths) < 1e-3


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=18))
def test_nodes_of_a_firm_group_stay_connected_whichever_edge_is_removed(count, edges):
    edges = [(a % count, b % count) for a, b in edges if a % count != b % count]
    found = firm_groups(range(count), edges)

    def connected(some):
        group = list(range(count))
        for _ in range(count):
            for a, b in some:
                group[a] = group[b] = min(group[a], group[b])
        return group

    without = [connected(edges[:n] + edges[n + 1 :]) for n in range(len(edges))] or [connected(edges)]
    for a, b in itertools.combinations(range(count), 2):
        assert (found[a] == found[b]) == all(one[a] == one[b] for one in without)

"""A solution that begins with an earlier one of the same drives, to which links were added, and judges all links again.

Drives begin in a group where accepted links connect them so firmly that no single wrong link can have done it, and
where the new links agree with it. All other drives begin alone, as without an earlier solution.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pipeline.backend.join import JoinResult
from pipeline.backend.sim3 import Sim3
from pipeline.fuse.city_problem import moved
from pipeline.fuse.compatible_links import BOUND, NEARLY
from pipeline.fuse.consistent_links import Grouping
from pipeline.fuse.drive_nodes import State, own_state

_SEVERAL = 2  # new links that disagree: one may be wrong
_DISAGREE = 0.02  # share of a group's new links above which the group is not begun with


def begin_again(
    grouping: Grouping,
    states: Mapping[int, State],
    judged: Mapping[int, tuple[bool, float]],
    drives: Sequence[JoinResult],
) -> None:
    """Put an earlier solution into `grouping`. states: of the chunks of drives in it, by drive; judged: its verdicts
    (accepted, chi2) by number of the link; drives: from which the chunks were made."""
    pairs = [(n, *grouping.ends(n)) for n, (accepted, _) in judged.items() if accepted]
    group = firm_groups(states, [pair[1:] for pair in pairs])
    grouping.resume(states, [n for n, a, b in pairs if group[a] == group[b]], ())
    own = grouping.own_chi2(np.arange(grouping.link_count))
    said: dict[int, Counter[bool]] = defaultdict(Counter)  # by drive: new links that agree, and that do not
    of_group: dict[int, Counter[bool]] = defaultdict(Counter)
    for n in range(grouping.link_count):
        first, second = grouping.ends(n)
        if n not in judged and first in group and group[first] == group.get(second):
            good = own[n] < NEARLY * BOUND or not grouping.contradicts(int(grouping.group[first]), [n])[0]
            of_group[group[first]][good] += 1
            for drive in (first, second):
                said[drive][good] += 1
    bad = {one for one, votes in of_group.items() if votes[False] >= max(_SEVERAL, _DISAGREE * votes.total())}
    left = {n for n in states if group[n] not in bad and said[n][False] < max(_SEVERAL, said[n][True] + 1)}
    group = firm_groups(left, [(a, b) for _, a, b in pairs if a in left and b in left])
    for n in list(grouping.accepted):
        grouping.discard(n)
    begun = {n: own_state(drives[n]) for n in states}
    members: dict[int, list[int]] = defaultdict(list)
    for n in sorted(left):
        members[group[n]].append(n)
    for together in members.values():
        if len(together) > 1:
            back = _frame_of(begun[together[0]]) @ _frame_of(states[together[0]]).inverse()
            for n in together:
                begun[n] = moved(states[n], back, np.arange(len(states[n].scale)))
    # Where the solution agrees with a link by the link's own covariance, that of the solution need not be computed.
    accepted = {n for n, (good, _) in judged.items() if good} | set(np.flatnonzero(own < BOUND).tolist())
    ends = {n: grouping.ends(n) for n in accepted}
    grouping.resume(begun, [n for n, (a, b) in ends.items() if {a, b} <= left and group[a] == group[b]], ())


def _frame_of(state: State) -> Sim3:
    """The place of the first chunk."""
    return Sim3(float(state.scale[0]), state.rotation[0], state.translation[0])


def firm_groups(nodes: Iterable[int], edges: Sequence[tuple[int, int]]) -> dict[int, int]:
    """A name for each node, the same for those that stay connected whichever single edge is removed. Two edges between
    the same nodes count as two. Bridges are found by depth-first search (Tarjan 1974)."""
    beside: dict[int, list[tuple[int, int]]] = {n: [] for n in nodes}
    for number, (a, b) in enumerate(edges):
        beside[a].append((b, number))
        beside[b].append((a, number))
    seen: dict[int, int] = {}  # in the order of the search
    low: dict[int, int] = {}
    bridges: set[int] = set()
    for root in beside:
        if root in seen:
            continue
        seen[root] = low[root] = len(seen)
        stack = [(root, -1, iter(beside[root]))]
        while stack:
            here, came, rest = stack[-1]
            for there, edge in rest:
                if edge == came:
                    continue
                if there not in seen:
                    seen[there] = low[there] = len(seen)
                    stack.append((there, edge, iter(beside[there])))
                    break
                low[here] = min(low[here], seen[there])
            else:
                stack.pop()
                if stack:
                    before = stack[-1][0]
                    low[before] = min(low[before], low[here])
                    if low[here] > seen[before]:
                        bridges.add(came)
    name: dict[int, int] = {}
    for root in beside:
        if root in name:
            continue
        name[root], queue = root, [root]
        while queue:
            for there, edge in beside[queue.pop()]:
                if there not in name and edge not in bridges:
                    name[there] = root
                    queue.append(there)
    return name

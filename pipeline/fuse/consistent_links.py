"""Which links can be true together, and where that puts the drives.

Drives begin apart. Two groups of drives are joined by the largest set of links between them that agree with each other
and with what holds the drives together; the pair whose set leads its next rival by most comes first. So links that
agree by chance meet more and more true ones before they are asked.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Sim3
from pipeline.fuse.city_equations import CityEquations, LinkRows, frame_rows, joint_rows, link_rows, settled
from pipeline.fuse.compatible_links import compatible
from pipeline.fuse.drive_nodes import Array, Frames, Joints, Numbers, State
from pipeline.fuse.positions import Positions, agrees, enu_from_component, level_rows, position_rows

_AT_ONCE, _CLEAR = 16, 0.6  # in a larger city: links asked about at once, share of them that needs no rival
_LOCALLY, _WHOLLY_FEW, _WHOLLY_MANY = 2, 15, 4  # most steps of a solution: at new links, of few chunks, of many
_FEW, _SMALL = 400, 80  # chunks of a city, and of a group of a larger one, that always take part all together


@dataclass(frozen=True, eq=False)
class Support:
    """What speaks for joining two groups: links that agree, lead over the next set that disagrees, the link whose move
    they agree with."""

    links: tuple[int, ...]
    lead: int
    surprise: float
    tried: int

    @property
    def rank(self) -> tuple[float, float, float]:
        """The smaller, the sooner the groups are joined."""
        return -self.lead, -len(self.links), self.surprise


class Grouping:
    """Groups of drives that grow: `run` joins all that links can join.

    state: of all chunks, each group in the frame of its first drive; group (D,): of each drive; accepted: links.

    In a city of more than 400 chunks only those drives of a group take part in judging a link that lie on the way
    between those that are asked about: more could only make what is expected of a link narrower. There a group is
    solved at its new links, with the drives beyond held, and as a whole when it has grown by the half.
    """

    def __init__(self, state: State, joints: Joints, links: LinkRows, drive_of_node: Numbers, ends: Numbers) -> None:
        self.state, self._joints, self._links = state, joints, links
        self._drive_of_node, self._ends = drive_of_node, ends
        self.group = np.arange(int(drive_of_node.max()) + 1)
        self._chunks = np.bincount(drive_of_node)
        self.accepted: set[int] = set()
        self._friends: dict[int, Counter[int]] = defaultdict(Counter)  # accepted links from drive to drive
        self._settled = np.ones(len(self.group), np.int64)  # drives that a group had when it was solved as a whole

    def run(self) -> None:
        """Join groups until no link leads from one to another."""
        between: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, (first, second) in enumerate(self._ends.tolist()):
            between[first][second].append(number)
            between[second][first].append(number)
        known: dict[tuple[int, int], tuple[int, Support | None]] = {}  # None: not weighed with the links there are now
        queue: list[tuple[tuple[float, float, float], int, int, int]] = []
        stamps = count()

        def put(a: int, b: int, support: Support | None) -> None:
            a, b = min(a, b), max(a, b)
            most = -float(len(between[a][b]))
            stamp = next(stamps)
            known[a, b] = stamp, support
            heappush(queue, ((most, most, -1.0) if support is None else support.rank, a, b, stamp))

        for a in list(between):
            for b in list(between[a]):
                if a < b:
                    put(a, b, None)
        while queue:
            _, a, b, stamp = heappop(queue)
            newest, support = known.get((a, b), (None, None))
            if newest != stamp:
                continue
            if support is None:  # could be first at best: now it is asked whether it is
                put(a, b, self._support(a, b, sorted(between[a][b])))
                continue
            self._join(a, b, support)
            del known[a, b]
            beside = between.pop(b)
            del beside[a], between[a][b]
            for c, links in beside.items():
                del between[c][b]
                _, old = known.pop((min(b, c), max(b, c)))
                both = c in between[a]
                between[a][c] += links
                between[c][a] = between[a][c]
                put(a, c, None if both else old)  # only links to b: nothing new speaks for or against them
            if self.is_few:
                for c in list(between[a]):
                    put(a, c, None)

    def nodes(self, *groups: int) -> Numbers:
        """Chunks of the groups."""
        return np.nonzero(np.isin(self.group[self._drive_of_node], groups))[0]

    def _nodes_of(self, drives: Iterable[int]) -> Numbers:
        return np.nonzero(np.isin(self._drive_of_node, list(drives)))[0]

    def _join(self, a: int, b: int, support: Support) -> None:
        move = self._move(self.state, self._links, support.tried, swapped=self.group[self._ends[support.tried, 0]] == b)
        self.state = _moved(self.state, move, self.nodes(b))
        self.group[self.group == b] = a
        self.accept(support.links)
        size = int((self.group == a).sum())
        if self.is_small(a) or size >= 1.5 * self._settled[a]:
            self.settle(a)
            self._settled[a] = size
            return
        active = {int(drive) for link in support.links for drive in self._ends[link]}
        links = self._inside(active, either=True)
        rows = self._links[np.array(links, np.int64)]
        mine = self._nodes_of(active)
        nodes = np.union1d(mine, np.concatenate([rows.first.node.ravel(), rows.second.node.ravel()]))
        held = np.flatnonzero(~np.isin(nodes, mine)).tolist() or [0]
        state, joints, rows = self._part(nodes, links)
        self._put(nodes, settled(state, joints, rows, held=held, iterations=_LOCALLY))

    def settle(self, group: int, joints: Joints | None = None) -> None:
        """Solve a group with the links that it has accepted; joints: instead of its own, of the same chunks."""
        nodes = self.nodes(group)
        state, own, rows = self._part(nodes, self._inside(self._members(group)), joints)
        most = _WHOLLY_FEW if self.is_few else _WHOLLY_MANY
        self._put(nodes, settled(state, own, rows, held=[0], iterations=most))

    @property
    def is_few(self) -> bool:
        """Whether the city has so few chunks that nothing is done locally."""
        return len(self._drive_of_node) <= _FEW

    def is_small(self, group: int) -> bool:
        """Whether all of a group takes part when its links are judged."""
        return self.is_few or int(self._chunks[self.group == group].sum()) <= _SMALL

    def _members(self, group: int) -> set[int]:
        return {int(drive) for drive in np.nonzero(self.group == group)[0]}

    def accept(self, links: Iterable[int]) -> None:
        """Believe links within a group from now on."""
        for link in set(links) - self.accepted:
            self.accepted.add(link)
            first, second = self._ends[link].tolist()
            self._friends[first][second] += 1
            self._friends[second][first] += 1

    def discard(self, link: int) -> None:
        """Believe a link no more."""
        self.accepted.discard(link)
        first, second = self._ends[link].tolist()
        for one, other in ((first, second), (second, first)):
            self._friends[one][other] -= 1
            if not self._friends[one][other]:
                del self._friends[one][other]

    def links_between(self, first: int, second: int) -> int:
        """Accepted links between two drives."""
        return self._friends[first][second]

    def holds_without(self, link: int) -> bool:
        """Whether the drives of an accepted link stay joined without it."""
        first, second = self._ends[link].tolist()
        if self._friends[first][second] > 1:
            return True
        seen, queue = {first}, [first]
        while queue and second not in seen:
            here = queue.pop()
            for friend in self._friends[here].keys() - seen:
                if {here, friend} != {first, second}:
                    seen.add(friend)
                    queue.append(friend)
        return second in seen

    def _asked(self, group: int, links: Sequence[int]) -> set[int]:
        """Drives of a group that take part in judging links: all of few, else those on the way between their ends."""
        members = self._members(group)
        if self.is_small(group):
            return members
        ends = {int(drive) for link in links for drive in self._ends[link] if self.group[drive] == group}
        start = min(ends)
        came, queue = {start: start}, deque([start])
        while queue and not ends <= came.keys():
            here = queue.popleft()
            for friend in sorted(self._friends[here].keys() - came.keys()):
                came[friend] = here
                queue.append(friend)
        asked = set(ends)
        for drive in ends:
            while drive != start:
                drive = came[drive]
                asked.add(drive)
        return asked

    def deviations(
        self, group: int, joints: Joints, middles: Mapping[int, Frames], positions: Positions | None
    ) -> dict[int, float]:
        """Of the place of a frame of each drive of a group (middles, by drive), city units: against the group's first
        chunk, or with `positions` against the Earth. The largest axis'."""
        nodes = self.nodes(group)
        state, own, rows = self._part(nodes, self._inside(self._members(group)), joints)
        number = np.full(len(self.state.scale), -1)
        number[nodes] = np.arange(len(nodes))
        groups = [joint_rows(state, own), link_rows(state, rows)]
        if positions is not None:
            mine = positions.of(np.isin(positions.drive, np.nonzero(self.group == group)[0]))
            mine = replace(mine, frames=replace(mine.frames, node=number[mine.frames.node]))
            groups += [position_rows(state, mine), level_rows(state)]
        equations = CityEquations(len(nodes), groups, held=[] if positions is not None else [0])
        answer = {}
        for drive in np.nonzero(self.group == group)[0].tolist():
            frames = replace(middles[drive], node=number[middles[drive].node])
            spread = equations.covariance(frame_rows(state, frames))[3:6, 3:6]
            answer[drive] = float(np.sqrt(np.linalg.eigvalsh(spread)[-1]))
        return answer

    def onto_earth(self, group: int, joints: Joints, positions: Positions) -> str:
        """Lay a group over its fixes and solve it with them; why not, in words, where it stays as it was.

        The drives' slow errors are not unknowns: fixes of two minutes count as one instead.
        """
        nodes = self.nodes(group)
        state, own, rows = self._part(nodes, self._inside(self._members(group)), joints)
        number = np.full(len(self.state.scale), -1)
        number[nodes] = np.arange(len(nodes))
        mine = positions.of(np.isin(positions.drive, np.nonzero(self.group == group)[0]))
        mine = replace(mine, frames=replace(mine.frames, node=number[mine.frames.node]))
        start = enu_from_component(state, mine)
        if isinstance(start, str):
            return start
        state = settled(
            _moved(state, start, np.arange(len(nodes))),
            own,
            rows,
            held=[],
            more=lambda now: (position_rows(now, mine), level_rows(now)),
        )
        if not agrees(state, mine):
            return "too few of the fixes agree with each other and with the images"
        self._put(nodes, state)
        return ""

    def group_of_link(self, link: int) -> int | None:
        """The group that both ends of a link are in; None where they are apart."""
        first, second = self.group[self._ends[link]]
        return int(first) if first == second else None

    def _inside(self, drives: set[int], *, either: bool = False) -> list[int]:
        """Accepted links between these drives; either: also those that lead from them to others."""
        among = np.zeros(len(self.group), bool)
        among[list(drives)] = True
        links = np.sort(np.fromiter(self.accepted, np.int64, len(self.accepted)))
        return [int(n) for n in links[(among[self._ends[links]].any if either else among[self._ends[links]].all)(1)]]

    def _part(
        self, nodes: Numbers, links: Sequence[int], joints: Joints | None = None
    ) -> tuple[State, Joints, LinkRows]:
        """The problem of `nodes` alone, counted anew."""
        every = joints or self._joints
        number = np.full(len(self.state.scale), -1)
        number[nodes] = np.arange(len(nodes))
        mine = (number[every.first] >= 0) & (number[every.second] >= 0)
        joints = Joints(*(getattr(every, name)[mine] for name in Joints.__dataclass_fields__))
        joints = replace(joints, first=number[joints.first], second=number[joints.second])
        rows = self._links[np.asarray(links, np.int64)]
        rows = replace(
            rows,
            first=replace(rows.first, node=number[rows.first.node]),
            second=replace(rows.second, node=number[rows.second.node]),
        )
        return _taken(self.state, nodes), joints, rows

    def _put(self, nodes: Numbers, part: State) -> None:
        scale, rotation, translation = (
            x.copy() for x in (self.state.scale, self.state.rotation, self.state.translation)
        )
        scale[nodes], rotation[nodes], translation[nodes] = part.scale, part.rotation, part.translation
        self.state = State(scale, rotation, translation)

    def _support(self, a: int, b: int, links: Sequence[int]) -> Support:
        """The largest set of `links` (at least one) between groups a and b that can be true together."""
        if len(links) == 1:
            return Support((links[0],), 1, 0.0, links[0])
        if not self.is_few and len(links) > _AT_ONCE:
            links = [links[n] for n in np.linspace(0, len(links) - 1, _AT_ONCE).round().astype(int)]
        drives = self._asked(a, links) | self._asked(b, links)
        nodes, inside = self._nodes_of(drives), self._inside(drives)
        state, joints, rows = self._part(nodes, [*inside, *links])
        of_b = np.nonzero(self.group[self._drive_of_node[nodes]] == b)[0]
        between = np.arange(len(inside), len(rows))
        sets: list[tuple[tuple[int, ...], float, int]] = []
        open_ones = list(range(len(links)))
        while open_ones:
            tried = open_ones[0]
            move = self._move(state, rows, int(between[tried]), swapped=self.group[self._ends[links[tried], 0]] == b)
            at = _moved(state, move, of_b)
            believed = rows[np.append(np.arange(len(inside)), between[tried])]
            equations = CityEquations(len(nodes), [joint_rows(at, joints), link_rows(at, believed)], held=[0])
            candidates = link_rows(at, rows[between])
            taken, chi2 = compatible(candidates, equations.covariance(candidates), begin=tried)
            chosen = tuple(int(n) for n in np.nonzero(taken)[0])
            sets.append((chosen, float(chi2[list(chosen)].sum()), tried))
            open_ones = [n for n in open_ones if n not in chosen and n != tried]
            if not self.is_few and len(chosen) >= _CLEAR * len(links):
                break  # no other set can be larger
        sets.sort(key=lambda one: (-len(one[0]), one[1]))
        best, surprise, tried = sets[0]
        rivals = [len(one[0]) for one in sets[1:] if not set(best) & set(one[0])]
        lead = len(best) - max([*rivals, len(open_ones)])
        return Support(tuple(links[n] for n in best), lead, surprise, links[tried])

    @staticmethod
    def _move(state: State, rows: LinkRows, number: int, *, swapped: bool) -> Sim3:
        """What brings group b to where the link wants it; swapped: the link's first frame is b's."""
        one = rows[np.array([number])]
        first, second = _sim3(one.first, state), _sim3(one.second, state)
        link = Sim3(float(np.exp(one.log_scale[0])), one.rotation[0], one.translation[0])
        if swapped:
            return second @ link @ first.inverse()
        return first @ link.inverse() @ second.inverse()

    def weighed(self, group: int, links: Sequence[int]) -> tuple[Array, NDArray[np.bool_]]:
        """Of links within a group that are not accepted: chi2 (m,) against the solution, and those that fit together
        with it."""
        drives = self._asked(group, links)
        nodes, inside = self._nodes_of(drives), self._inside(drives)
        state, joints, rows = self._part(nodes, [*inside, *links])
        believed, asked = rows[np.arange(len(inside))], rows[np.arange(len(inside), len(rows))]
        equations = CityEquations(len(nodes), [joint_rows(state, joints), link_rows(state, believed)], held=[0])
        candidates = link_rows(state, asked)
        taken, chi2 = compatible(candidates, equations.covariance(candidates))
        return chi2, taken

    def own_chi2(self, links: Sequence[int] | Numbers) -> Array:
        """(m,): squared residuals of links in their own deviations."""
        rows = link_rows(self.state, self._links[np.asarray(links, np.int64)])
        return np.asarray(np.einsum("ni,nij,nj->n", rows.residual, rows.information, rows.residual))


def _taken(state: State, nodes: Numbers) -> State:
    return State(state.scale[nodes], state.rotation[nodes], state.translation[nodes])


def _moved(state: State, by: Sim3, nodes: Numbers) -> State:
    scale, rotation, translation = state.scale.copy(), state.rotation.copy(), state.translation.copy()
    scale[nodes] *= by.scale
    rotation[nodes] = by.rotation @ rotation[nodes]
    translation[nodes] = by.apply(translation[nodes])
    return State(scale, rotation, translation)


def _sim3(frames: Frames, state: State) -> Sim3:
    """city_from_camera of the one frame, from units of its drive."""
    rotation, position, log_scale = frames.place(state)
    return Sim3(float(np.exp(log_scale[0])), rotation[0], position[0])

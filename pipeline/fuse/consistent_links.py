"""Joins drives into groups by sets of links that can be true together.

At first each drive is a group. Two groups are joined by the largest set of links between them that agree with each
other and with the joints inside the groups. The pair of groups whose set exceeds its largest rival by most is joined
first. So when links that agree only by chance are tested, many true links are already part of the solution.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Sim3
from pipeline.fuse.city_equations import CityEquations, LinkRows, Rows, joint_rows, link_rows
from pipeline.fuse.city_problem import LOCALLY, CityProblem, moved, taken
from pipeline.fuse.compatible_links import BOUND, NEARLY, compatible, confirmed
from pipeline.fuse.drive_nodes import Array, Frames, Joints, State

# In a large city: links of two groups that are tested together; the share of them, and the lead, that make a set clear.
_AT_ONCE, _CLEAR, _LEADS = 16, 0.6, 3
_SOME = 50  # drives of a group from which its radius is computed
_SMALL = 80  # most chunks of a group, in a large city, that is always used as a whole


@dataclass(frozen=True, eq=False)
class Support:
    """Evidence for joining two groups. links: that agree; lead: their number minus that of the largest set that
    disagrees; surprise: their summed chi2; tried: the link that moves one group to the other; asked: links tested."""

    links: tuple[int, ...]
    lead: int
    surprise: float
    tried: int
    asked: int = 1

    @property
    def is_clear(self) -> bool:
        """Whether the two groups can be joined without comparison with other pairs."""
        return self.lead >= _LEADS and len(self.links) >= _CLEAR * self.asked

    @property
    def rank(self) -> tuple[float, float, float]:
        """Pairs of groups with a smaller rank are joined first."""
        return -self.lead, -len(self.links), self.surprise


class Grouping(CityProblem):
    """Groups of drives: `run` joins groups as far as links connect them.

    In a city of more than 400 chunks a link is tested with only those drives of a group that lie on the shortest paths
    between the drives of the tested links. More drives would only make the expected covariance smaller. A link between
    ends that these drives hardly determine must be confirmed by others (`compatible_links.confirmed`). There a group
    is solved near its new links, with the other drives held, and as a whole each time it has grown by half.
    """

    def resume(self, states: Mapping[int, State], accepted: Iterable[int], held: Iterable[int]) -> None:
        """Begin with an earlier solution. states: of the chunks of drives, by drive; accepted: links between them;
        held: drives whose groups do not move when others are joined to them."""
        for drive, state in states.items():
            self._put(self._nodes[drive], state)
        self.accept(accepted)
        seen: set[int] = set()
        for first in sorted(states):
            if first in seen:
                continue
            group, queue = {first}, [first]
            while queue:
                for friend in self._friends[queue.pop()].keys() - group:
                    group.add(friend)
                    queue.append(friend)
            seen |= group
            self.group[sorted(group)] = first
            self._settled[first] = len(group)
        self._held = {int(self.group[drive]) for drive in held}

    def run(self) -> None:
        """Join groups until no link connects two of them."""
        between: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, (first, second) in enumerate(self.group[self._ends].tolist()):
            if first != second:
                between[first][second].append(number)
                between[second][first].append(number)
        known: dict[tuple[int, int], tuple[int, Support | None]] = {}  # None: not tested since the links changed
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
            if support is None:  # its rank was the best possible one; the test gives the true rank
                support = self._support(a, b, sorted(between[a][b]))
                if self.is_few or not support.is_clear:
                    put(a, b, support)
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
                put(a, c, None if both else old)  # c had links with b only: their support has not changed
            if self.is_few:
                for c in list(between[a]):
                    put(a, c, None)

    def _join(self, a: int, b: int, support: Support) -> None:
        move = self._move(self.state, self._links, support.tried, swapped=self.group[self._ends[support.tried, 0]] == b)
        stays = b in self._held and a not in self._held
        nodes = self.nodes(a if stays else b)
        move = move.inverse() if stays else move
        self._put(nodes, moved(taken(self.state, nodes), move, np.arange(len(nodes))))
        self.group[self.group == b] = a
        if stays:
            self._held.add(a)
        self._settled[a] = max(self._settled[a], self._settled[b])
        self.accept(support.links)
        size = int((self.group == a).sum())
        if self.is_small(a) or size >= 1.5 * self._settled[a]:
            self.settle(a, most=LOCALLY)
            self._settled[a] = size
            return
        self.settle_near({drive for link in support.links for drive in self._pairs[link]}, iterations=LOCALLY)

    def is_small(self, group: int) -> bool:
        """Whether all drives of a group are used when its links are tested."""
        return self.is_few or int(self._chunks[self.group == group].sum()) <= _SMALL

    def holds_without(self, link: int) -> bool:
        """Whether the two drives of an accepted link are still connected without it."""
        first, second = self._pairs[link]
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
        """Drives of a group with which links are tested: all drives of a small group, else those on the shortest paths
        between the ends of the links."""
        if self.is_small(group):
            return self.members(group)
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

    def _support(self, a: int, b: int, links: Sequence[int]) -> Support:
        """The largest set of `links` (at least one) between groups a and b that can be true together."""
        if len(links) == 1:
            return Support((links[0],), 1, 0.0, links[0])
        if not self.is_few and len(links) > _AT_ONCE:
            links = [links[n] for n in np.linspace(0, len(links) - 1, _AT_ONCE).round().astype(int)]
        drives = self._asked(a, links) | self._asked(b, links)
        nodes, inside = self._nodes_of(drives), self.links_of(drives)
        state, joints, rows = self._part(nodes, [*inside, *links])
        of_b = np.nonzero(self.group[self._drive_of_node[nodes]] == b)[0]
        between = np.arange(len(inside), len(rows))
        sets: list[tuple[tuple[int, ...], float, int]] = []
        open_ones = list(range(len(links)))
        while open_ones:
            tried = open_ones[0]
            move = self._move(state, rows, int(between[tried]), swapped=self.group[self._ends[links[tried], 0]] == b)
            at = moved(state, move, of_b)
            believed = rows[np.append(np.arange(len(inside)), between[tried])]
            equations = CityEquations(len(nodes), [joint_rows(at, joints), link_rows(at, believed)], held=[0])
            candidates = link_rows(at, rows[between])
            covariance = equations.covariance(candidates)
            taken, chi2 = compatible(candidates, covariance, begin=tried)
            if not self.is_few:
                reach = max(self._radius(a), move.scale * self._radius(b)) * _units(rows[between], at)
                taken, chi2, begins_well = confirmed(candidates, covariance, reach, tried)
                if not begins_well and len(open_ones) > 1:
                    open_ones.remove(tried)  # the others agree with each other without it
                    continue
            chosen = tuple(int(n) for n in np.nonzero(taken)[0])
            sets.append((chosen, float(chi2[list(chosen)].sum()), tried))
            open_ones = [n for n in open_ones if n not in chosen and n != tried]
            if not self.is_few and len(chosen) >= _CLEAR * len(links):
                break  # no other set can be larger
        sets.sort(key=lambda one: (-len(one[0]), one[1]))
        best, surprise, tried = sets[0]
        rivals = [len(one[0]) for one in sets[1:] if not set(best) & set(one[0])]
        lead = len(best) - max([*rivals, len(open_ones)])
        return Support(tuple(links[n] for n in best), lead, surprise, links[tried], len(links))

    @staticmethod
    def _move(state: State, rows: LinkRows, number: int, *, swapped: bool) -> Sim3:
        """The transform that moves group b so that the link is true; swapped: the link's first frame is in b."""
        one = rows[np.array([number])]
        first, second = _sim3(one.first, state), _sim3(one.second, state)
        link = Sim3(float(np.exp(one.log_scale[0])), one.rotation[0], one.translation[0])
        if swapped:
            return second @ link @ first.inverse()
        return first @ link.inverse() @ second.inverse()

    def weighed(
        self, group: int, links: Sequence[int], joints: Joints | None = None
    ) -> tuple[Array, NDArray[np.bool_]]:
        """For links within a group that are not accepted: their chi2 (m,) relative to the solution, and which of them
        (m,) can be true together with it. In a large city one that nearly any wrong link could replace is among them
        only where the solution has it already; else its chi2 is that of its own covariance. joints: as in `settle`."""
        candidates, covariance, reach = self._tested(group, links, joints)
        taken, chi2 = compatible(candidates, covariance)
        if not self.is_few and taken.any():
            sure, _, _ = confirmed(candidates, covariance, reach)
            own = self.own_chi2(links)
            doubtful = taken & ~sure & ~(own < NEARLY * BOUND)
            chi2[doubtful], taken[doubtful] = own[doubtful], False
        return chi2, taken

    def contradicts(self, group: int, links: Sequence[int]) -> NDArray[np.bool_]:
        """Which (m,) of some links within a group, which are not accepted, each by itself contradict the solution."""
        candidates, covariance, _ = self._tested(group, links, None)
        return np.asarray(compatible(candidates, covariance)[1] > BOUND)

    def _tested(self, group: int, links: Sequence[int], joints: Joints | None) -> tuple[Rows, Array, Array]:
        """Links as rows, the covariance (7m, 7m) of their residuals, and the city's radius (m,) in their units."""
        drives = self._asked(group, links)
        nodes, inside = self._nodes_of(drives), self.links_of(drives)
        state, joints, rows = self._part(nodes, [*inside, *links], joints)
        believed, asked = rows[np.arange(len(inside))], rows[np.arange(len(inside), len(rows))]
        equations = CityEquations(len(nodes), [joint_rows(state, joints), link_rows(state, believed)], held=[0])
        candidates = link_rows(state, asked)
        return candidates, equations.covariance(candidates), self._radius(group) * _units(asked, state)

    def _radius(self, group: int) -> float:
        """Root mean square distance of a group's chunks from their centre, in its frame."""
        drives = np.flatnonzero(self.group == group)
        some = drives[:: max(len(drives) // _SOME, 1)]
        return float(np.sqrt(self.state.translation[self._nodes_of(some.tolist())].var(0).sum()))


def _units(rows: LinkRows, state: State) -> Array:
    """Units (m,) of each link's second drive in a unit of the city."""
    return np.exp(-rows.second.place(state)[2])


def _sim3(frames: Frames, state: State) -> Sim3:
    """city_from_camera of a single frame, from units of its drive."""
    rotation, position, log_scale = frames.place(state)
    return Sim3(float(np.exp(log_scale[0])), rotation[0], position[0])

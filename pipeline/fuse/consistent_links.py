"""Which links can be true together, and where that puts the drives.

Drives begin apart. Two groups of drives are joined by the largest set of links between them that agree with each other
and with what holds the drives together; the pair whose set leads its next rival by most comes first. So links that
agree by chance meet more and more true ones before they are asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution

from pipeline.backend.sim3 import Sim3
from pipeline.fuse.city_equations import CityEquations, LinkRows, Rows, frame_rows, joint_rows, link_rows, settled
from pipeline.fuse.drive_nodes import Array, Frames, Joints, Numbers, State
from pipeline.fuse.positions import Positions, agrees, enu_from_component, level_rows, position_rows

CONFIDENCE = 0.99999
"""A link is rejected when its residual is less likely than one minus this, were it true."""
BOUND = float(chi2_distribution.ppf(CONFIDENCE, 7))
_NONLINEAR = 0.02  # share of a shift that a linear model misses


@dataclass(frozen=True, eq=False)
class Support:
    """What speaks for joining two groups: links that agree, lead over the next set that disagrees, the move of the
    second group."""

    links: tuple[int, ...]
    lead: int
    surprise: float
    move: Sim3

    @property
    def rank(self) -> tuple[int, int, float]:
        """The greater, the sooner the groups are joined."""
        return self.lead, len(self.links), -self.surprise


class Grouping:
    """Groups of drives that grow: `run` joins all that links can join.

    state: of all chunks, each group in the frame of its first drive; group (D,): of each drive; accepted: links.
    """

    def __init__(self, state: State, joints: Joints, links: LinkRows, drive_of_node: Numbers, ends: Numbers) -> None:
        self.state, self._joints, self._links = state, joints, links
        self._drive_of_node, self._ends = drive_of_node, ends
        self.group = np.arange(int(drive_of_node.max()) + 1)
        self.accepted: set[int] = set()

    def run(self) -> None:
        """Join groups until no link leads from one to another."""
        known: dict[tuple[int, int], Support] = {}
        while pairs := self._pairs():
            for pair, links in pairs.items():
                if pair not in known:
                    known[pair] = self._support(*pair, links)
            a, b = max(pairs, key=lambda pair: (known[pair].rank, -pair[0], -pair[1]))
            self._join(a, b, known[a, b])
            known = {pair: support for pair, support in known.items() if not {a, b} & set(pair)}

    def _pairs(self) -> dict[tuple[int, int], list[int]]:
        """Links between two groups, by the groups, the lower number first."""
        pairs: dict[tuple[int, int], list[int]] = {}
        for number, (first, second) in enumerate(self.group[self._ends]):
            if first != second:
                pairs.setdefault((min(first, second), max(first, second)), []).append(number)
        return pairs

    def nodes(self, *groups: int) -> Numbers:
        """Chunks of the groups."""
        return np.nonzero(np.isin(self.group[self._drive_of_node], groups))[0]

    def _join(self, a: int, b: int, support: Support) -> None:
        nodes_b = self.nodes(b)
        self.state = _moved(self.state, support.move, nodes_b)
        self.group[self.group == b] = a
        self.accepted |= set(support.links)
        self.settle(a)

    def settle(self, group: int, joints: Joints | None = None) -> None:
        """Solve a group with the links that it has accepted; joints: instead of its own, of the same chunks."""
        state, own, rows = self._part(self.nodes(group), self._inside(group), joints)
        self._put(self.nodes(group), settled(state, own, rows, held=[0]))

    def deviations(
        self, group: int, joints: Joints, middles: Mapping[int, Frames], positions: Positions | None
    ) -> dict[int, float]:
        """Of the place of a frame of each drive of a group (middles, by drive), city units: against the group's first
        chunk, or with `positions` against the Earth. The largest axis'."""
        nodes = self.nodes(group)
        state, own, rows = self._part(nodes, self._inside(group), joints)
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
        state, own, rows = self._part(nodes, self._inside(group), joints)
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

    def _inside(self, *groups: int) -> list[int]:
        """Accepted links within the groups."""
        return [n for n in sorted(self.accepted) if (np.isin(self.group[self._ends[n]], groups)).all()]

    def _part(
        self, nodes: Numbers, links: Sequence[int], joints: Joints | None = None
    ) -> tuple[State, Joints, LinkRows]:
        """The problem of `nodes` alone, counted anew."""
        every = joints or self._joints
        number = np.full(len(self.state.scale), -1)
        number[nodes] = np.arange(len(nodes))
        mine = number[every.first] >= 0
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
        nodes = self.nodes(a, b)
        inside = self._inside(a, b)
        state, joints, rows = self._part(nodes, [*inside, *links])
        of_b = np.nonzero(np.isin(nodes, self.nodes(b)))[0]
        between = np.arange(len(inside), len(rows))
        sets: list[tuple[tuple[int, ...], float, Sim3]] = []
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
            sets.append((chosen, float(chi2[list(chosen)].sum()), move))
            open_ones = [n for n in open_ones if n not in chosen and n != tried]
        sets.sort(key=lambda one: (-len(one[0]), one[1]))
        best, surprise, move = sets[0]
        rivals = [len(one[0]) for one in sets[1:] if not set(best) & set(one[0])]
        return Support(tuple(links[n] for n in best), len(best) - max(rivals, default=0), surprise, move)

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
        nodes = self.nodes(group)
        inside = self._inside(group)
        state, joints, rows = self._part(nodes, [*inside, *links])
        believed, asked = rows[np.arange(len(inside))], rows[np.arange(len(inside), len(rows))]
        equations = CityEquations(len(nodes), [joint_rows(state, joints), link_rows(state, believed)], held=[0])
        candidates = link_rows(state, asked)
        taken, chi2 = compatible(candidates, equations.covariance(candidates))
        return chi2, taken

    def own_chi2(self, links: Sequence[int]) -> Array:
        """(m,): squared residuals of links in their own deviations."""
        rows = link_rows(self.state, self._links[np.asarray(links, np.int64)])
        return np.asarray(np.einsum("ni,nij,nj->n", rows.residual, rows.information, rows.residual))


def compatible(rows: Rows, covariance: Array, begin: int | None = None) -> tuple[NDArray[np.bool_], Array]:
    """The rows that can be true together, the least surprising first, and the chi2 (m,) each had before any was taken.

    Each that is taken updates what is expected of the others (a Kalman update), so that after a few true ones a wrong
    one stands out. begin: believed already, so that it is not asked.
    """
    count = len(rows.residual)
    residual, covariance = rows.residual.copy().ravel(), covariance.copy()
    own = np.linalg.inv(rows.information)
    miss = _NONLINEAR * np.linalg.norm(rows.residual[:, 3:6], axis=1)
    own[:, [3, 4, 5], [3, 4, 5]] += miss[:, None] ** 2
    taken = np.zeros(count, bool)
    if begin is not None:
        taken[begin] = True
    at = np.arange(count)[:, None] * 7 + np.arange(7)

    def chi2() -> Array:
        blocks = covariance[at[:, :, None], at[:, None, :]] + own
        part = residual.reshape(count, 7)
        return np.asarray(np.einsum("ni,ni->n", part, np.linalg.solve(blocks, part[:, :, None])[:, :, 0]))

    first = chi2()
    for _ in range(count):
        left = np.where(taken, np.inf, chi2())
        best = int(np.argmin(left))
        if not left[best] < BOUND:
            break
        taken[best] = True
        mine = slice(best * 7, best * 7 + 7)
        gain = np.linalg.solve(covariance[mine, mine] + own[best], covariance[mine]).T
        residual = residual - gain @ residual[mine]
        covariance = covariance - gain @ covariance[mine]
    return taken, first


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

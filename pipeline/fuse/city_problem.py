"""The state of a city while it is solved: poses of its chunks, accepted links, and solutions of parts of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipeline.backend.sim3 import Sim3
from pipeline.fuse.city_equations import CityEquations, LinkRows, Rows, frame_rows, joint_rows, link_rows, settled
from pipeline.fuse.drive_nodes import Array, Frames, Joints, Numbers, State
from pipeline.fuse.large_systems import LargeSystem, MapAreas
from pipeline.fuse.positions import Positions, agrees, enu_from_component, level_rows, position_rows

# Most Gauss-Newton steps: near new links; of some drives, with the others held; of a group in a small city; in a large.
LOCALLY, _BESIDE, _WHOLLY_FEW, _WHOLLY_MANY = 2, 5, 15, 3
BRIEFLY = 1
"""Most steps of a group of a large city that will be solved again soon."""
_FINE, _CLOSE = 1e-6, 1e-4  # radians and log scale of the last step: in a small city, in a large one
_FEW = 400  # most chunks of a small city, in which groups are always solved as a whole


class CityProblem:
    """A city of D drives while it is solved. A group is a set of drives that accepted links hold together.

    state: of all chunks, each group in the frame of its first drive; group (D,): for each drive, the number of the
    first drive of its group; accepted: numbers of the accepted links. joints, links: of all drives; drive_of_node:
    drive of each chunk, rising; ends (L, 2): the two drives of each link; map_areas: as in `solve`.
    """

    def __init__(
        self,
        state: State,
        joints: Joints,
        links: LinkRows,
        drive_of_node: Numbers,
        ends: Numbers,
        map_areas: MapAreas | None = None,
    ) -> None:
        self._map_areas = map_areas
        self.state = State(state.scale.copy(), state.rotation.copy(), state.translation.copy())
        self._joints, self._links = joints, links
        self._drive_of_node, self._ends = drive_of_node, ends
        self._pairs: list[tuple[int, int]] = [(first, second) for first, second in ends.tolist()]
        self.group = np.arange(int(drive_of_node.max()) + 1)
        self._chunks = np.bincount(drive_of_node)
        stops = self._chunks.cumsum()
        self._nodes = [np.arange(stop - some, stop) for some, stop in zip(self._chunks, stops, strict=True)]
        self.accepted: set[int] = set()
        self._accepted_at: dict[int, set[int]] = defaultdict(set)  # accepted links by drive
        self._joint_of = drive_of_node[joints.first]  # the drive of each joint, rising
        self._friends: dict[int, Counter[int]] = defaultdict(Counter)  # number of accepted links from drive to drive
        self._settled = np.ones(len(self.group), np.int64)  # drives in a group when it was last solved as a whole
        # The group that was solved as a whole last: its chunks, joints and equations.
        self._solved: tuple[Numbers, Joints | None, LargeSystem] = np.zeros(0, np.int64), None, LargeSystem()
        self._held: set[int] = set()  # groups that do not move when another group is joined to them

    def nodes(self, *groups: int) -> Numbers:
        """Chunks of the groups."""
        return self._nodes_of(np.nonzero(np.isin(self.group, groups))[0].tolist())

    def _nodes_of(self, drives: Iterable[int]) -> Numbers:
        return np.concatenate([self._nodes[drive] for drive in sorted(drives)])

    @property
    def is_few(self) -> bool:
        """Whether the city has so few chunks that groups are always solved as a whole."""
        return len(self._drive_of_node) <= _FEW

    def members(self, group: int) -> set[int]:
        """Drives of a group."""
        return {int(drive) for drive in np.nonzero(self.group == group)[0]}

    def accept(self, links: Iterable[int]) -> None:
        """Accept links whose drives are in one group."""
        for link in set(links) - self.accepted:
            self.accepted.add(link)
            first, second = self._pairs[link]
            self._accepted_at[first].add(link)
            self._accepted_at[second].add(link)
            self._friends[first][second] += 1
            self._friends[second][first] += 1

    def discard(self, link: int) -> None:
        """Make an accepted link one that is not accepted."""
        self.accepted.discard(link)
        first, second = self._pairs[link]
        for one, other in ((first, second), (second, first)):
            self._accepted_at[one].discard(link)
            self._friends[one][other] -= 1
            if not self._friends[one][other]:
                del self._friends[one][other]

    def links_between(self, first: int, second: int) -> int:
        """Number of accepted links between two drives."""
        return self._friends[first][second]

    def friends(self, drives: Iterable[int]) -> set[int]:
        """Drives that an accepted link connects with one of these."""
        return {friend for drive in drives for friend in self._friends[drive]}

    @property
    def link_count(self) -> int:
        """Number of all links."""
        return len(self._pairs)

    def ends(self, link: int) -> tuple[int, int]:
        """The two drives of a link."""
        return self._pairs[link]

    def settle(self, group: int, joints: Joints | None = None, most: int = _WHOLLY_MANY) -> None:
        """Solve a group with its accepted links. joints: used instead of those given at the beginning, for the same
        chunks; most: steps, in a large city."""
        nodes = self.nodes(group)
        state, own, rows = self._part(nodes, self.links_of(self.members(group)), joints)
        most, accuracy = (_WHOLLY_FEW, _FINE) if self.is_few else (most, _CLOSE)
        before, used, system = self._solved
        if used is not joints or not np.array_equal(before, nodes):
            system = LargeSystem(self._map_areas)
            self._solved = nodes, joints, system
        self._put(nodes, settled(state, own, rows, held=[0], iterations=most, accuracy=accuracy, system=system))

    def forget(self) -> None:
        """Free the memory of the equations that were solved last."""
        self._solved = np.zeros(0, np.int64), None, LargeSystem()

    def settle_near(
        self,
        active: set[int],
        joints: Joints | None = None,
        iterations: int = _BESIDE,
        positions: Positions | None = None,
    ) -> None:
        """Solve the drives `active` of one group with their accepted links; the chunks of other drives are held.

        joints: as in `settle`; positions: if given, the fixes of these drives are used too.
        """
        links = self.links_of(active, either=True)
        rows = self._links[np.array(links, np.int64)]
        mine = self._nodes_of(active)
        nodes = np.union1d(mine, np.concatenate([rows.first.node.ravel(), rows.second.node.ravel()]))
        held = np.flatnonzero(~np.isin(nodes, mine)).tolist() or ([0] if positions is None else [])
        state, own, rows = self._part(nodes, links, joints)
        more = _rows_of(positions, active, nodes)
        self._put(nodes, settled(state, own, rows, held=held, iterations=iterations, more=more))

    def onto_earth(self, group: int, joints: Joints, positions: Positions) -> str:
        """Align a group with its fixes and solve it with them. Returns "", or the reason why the group did not change.

        The slowly varying errors of receivers are not unknowns. Instead, the fixes of two minutes count as one.
        """
        nodes = self.nodes(group)
        state, own, rows = self._part(nodes, self.links_of(self.members(group)), joints)
        number = _Numbered(nodes)
        mine = positions.of(np.isin(positions.drive, np.nonzero(self.group == group)[0]))
        mine = replace(mine, frames=replace(mine.frames, node=number[mine.frames.node]))
        start = enu_from_component(state, mine)
        if isinstance(start, str):
            return start
        state = settled(
            moved(state, start, np.arange(len(nodes))),
            own,
            rows,
            held=[],
            more=lambda now: (position_rows(now, mine), level_rows(now)),
        )
        if not agrees(state, mine):
            return "too few of the fixes agree with each other and with the images"
        self._put(nodes, state)
        return ""

    def deviations(
        self, group: int, joints: Joints, middles: Mapping[int, Frames], positions: Positions | None
    ) -> dict[int, float]:
        """Standard deviation, along its largest axis, of the position of one frame of each drive of a group, in city
        units: relative to the group's first chunk, or with `positions` on Earth. middles: that frame, by drive."""
        nodes = self.nodes(group)
        state, own, rows = self._part(nodes, self.links_of(self.members(group)), joints)
        number = _Numbered(nodes)
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

    def own_chi2(self, links: Sequence[int] | Numbers) -> Array:
        """Squared Mahalanobis distances (m,) of links by their own covariances."""
        rows = link_rows(self.state, self._links[np.asarray(links, np.int64)])
        return np.asarray(np.einsum("ni,nij,nj->n", rows.residual, rows.information, rows.residual))

    def links_of(self, drives: set[int], *, either: bool = False) -> list[int]:
        """Accepted links between these drives; either: also those from one of them to another drive."""
        found = {link for drive in drives for link in self._accepted_at[drive]}
        if either:
            return sorted(found)
        return sorted(n for n in found if drives.issuperset(self._pairs[n]))

    def _part(
        self, nodes: Numbers, links: Sequence[int], joints: Joints | None = None
    ) -> tuple[State, Joints, LinkRows]:
        """State, joints and links of the chunks `nodes` alone, which are numbered from 0 there."""
        every = joints or self._joints
        drives = np.unique(self._drive_of_node[nodes])
        low, high = (np.searchsorted(self._joint_of, drives, side=side) for side in ("left", "right"))
        some = np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True)])
        some = some[np.isin(every.first[some], nodes) & np.isin(every.second[some], nodes)]
        joints = every[some]
        number = _Numbered(nodes)
        joints = replace(joints, first=number[joints.first], second=number[joints.second])
        rows = self._links[np.asarray(links, np.int64)]
        rows = replace(
            rows,
            first=replace(rows.first, node=number[rows.first.node]),
            second=replace(rows.second, node=number[rows.second.node]),
        )
        return taken(self.state, nodes), joints, rows

    def _put(self, nodes: Numbers, part: State) -> None:
        own = self.state
        own.scale[nodes], own.rotation[nodes], own.translation[nodes] = part.scale, part.rotation, part.translation


def _rows_of(positions: Positions | None, drives: Iterable[int], nodes: Numbers) -> Callable[[State], Sequence[Rows]]:
    """A function that gives the rows of the fixes of some drives for the equations of the chunks `nodes`."""
    which = None if positions is None else np.isin(positions.drive, list(drives))
    if positions is None or which is None or not which.any():
        return lambda state: ()
    mine = positions.of(which)
    mine = replace(mine, frames=replace(mine.frames, node=_Numbered(nodes)[mine.frames.node]))
    return lambda state: (position_rows(state, mine), level_rows(state))


class _Numbered:
    """Numbers of chunks -> their indices in `nodes`, which is sorted."""

    def __init__(self, nodes: Numbers) -> None:
        self._nodes = nodes

    def __getitem__(self, which: Numbers) -> Numbers:
        return np.searchsorted(self._nodes, which)


def taken(state: State, nodes: Numbers) -> State:
    """The state of the chunks `nodes`."""
    return State(state.scale[nodes], state.rotation[nodes], state.translation[nodes])


def moved(state: State, by: Sim3, nodes: Numbers) -> State:
    """The state with the chunks `nodes` transformed by `by`."""
    scale, rotation, translation = state.scale.copy(), state.rotation.copy(), state.translation.copy()
    scale[nodes] *= by.scale
    rotation[nodes] = by.rotation @ rotation[nodes]
    translation[nodes] = by.apply(translation[nodes])
    return State(scale, rotation, translation)

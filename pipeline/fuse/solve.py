"""Drives and links -> a city: poses of all drives in common frames, and a verdict with its reason for every link."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.backend.config import BackendConfig
from pipeline.backend.join import JoinResult
from pipeline.backend.sim3 import Sim3, nearest_rotation
from pipeline.common.chi_squared import chi_squared_quantile
from pipeline.common.fixes import Fixes
from pipeline.fuse.city_equations import LinkRows
from pipeline.fuse.city_problem import BRIEFLY
from pipeline.fuse.compatible_links import BOUND, NEARLY
from pipeline.fuse.consistent_links import Grouping
from pipeline.fuse.drive_nodes import Array, Frames, Joints, State, frames_of, own_state
from pipeline.fuse.large_systems import MapAreas
from pipeline.fuse.link import Link, LinkVerdict
from pipeline.fuse.positions import Origin, Positions, read_positions
from pipeline.fuse.standing import Added, Standing
from pipeline.fuse.unknowns import unknowns_of, with_unknowns

# Factors of the deviations config.unseen_* that are tried in this order. Links are judged with the last one. The first
# with which the accepted links agree is used, so that links deform drives as little as possible.
_LOOSENESS = (0.0, 0.06, 0.2, 1.0)
_ROUNDS, _ROUNDS_OF_MANY = 6, 12  # most changes of the set of accepted links at the end: small city, large city
_AGAIN = 3  # most rounds in which rejected links are tested against the last solution of a large city
_FEW_CHANGED = 0.3  # share of a component's drives that are solved alone after their links changed
_FALLEN = 0.5  # share of a link's own chi2 below which it is tested again, however large its chi2 was
# Where the solution began with an earlier one, links with an own chi2 of up to so many times the bound are tested again
# at the end: the earlier one may have rejected the only link to the end of a drive.
_FAR = 100.0
_USUAL = 1.5 * chi_squared_quantile(0.5, 7)  # largest median chi2; 1.5 because deviations of links are estimates
_MOST_ASKED = 64  # most drives of a component for which deviations are computed, because each costs a solution
_COLLAPSE = 1.5  # ratio of the scales within a drive that gives an alarm


@dataclass(frozen=True, eq=False)
class FusedDrive:
    """A drive in its city.

    city_from_drive: the mean transform; city_from_camera (N, 4, 4): poses of the drive's frames; depth_scale (N,):
    factor from depth in the drive's units to the city's; component: number of the first drive of its component (drives
    that links hold together); on_earth: its coordinates are metres east, north, up from the city's origin, else they
    are in the frame of its component's first drive; scale_range: largest over smallest depth_scale; deviation: standard
    deviation of its middle frame's position in city units, NaN in components of more than 64 drives.
    """

    city_from_drive: Sim3
    city_from_camera: Array
    depth_scale: Array
    component: int
    scale_range: float
    on_earth: bool = False
    deviation: float = float("nan")


@dataclass(frozen=True, eq=False)
class City:
    """The solution. drives, links: in the order of the input; alarms: sentences on what may be wrong; origin: latitude,
    longitude (degrees), altitude (metres) of the frame of the drives that are `on_earth`, None if none is."""

    drives: tuple[FusedDrive, ...]
    links: tuple[LinkVerdict, ...]
    alarms: tuple[str, ...]
    origin: Origin | None = None

    @property
    def city_from_drive(self) -> tuple[Sim3, ...]:
        """The mean transform of each drive."""
        return tuple(drive.city_from_drive for drive in self.drives)

    @property
    def city_from_camera(self) -> tuple[Array, ...]:
        """Poses (N, 4, 4) of each drive's frames."""
        return tuple(drive.city_from_camera for drive in self.drives)

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Whether (L,) each link is part of the solution."""
        return np.array([link.accepted for link in self.links], bool)


def solve(
    drives: Sequence[JoinResult],
    links: Sequence[Link],
    *,
    fixes: Mapping[int, Fixes] | None = None,
    frame_time_s: Mapping[int, ArrayLike] | None = None,
    origin: Origin | None = None,
    config: BackendConfig | None = None,
    standing: Standing | None = None,
    map_areas: MapAreas | None = None,
) -> City:
    """Bring drives into common frames.

    The unknowns are one Sim(3) for each chunk of every drive. Overlaps and loops hold the chunks of a drive together,
    links hold drives together. Links that cannot be true together with others are left out with a reason. Larger sets
    of links that agree come first: pairwise consistency (PCM, Mangelson 2018), but between growing groups of drives,
    and joint compatibility (Neira and Tardos 2001). The frame of a component is that of its first drive.

    Args:
        drives: as they were joined.
        links: between frames of two different drives.
        fixes: positions by number of the drive, on the clock of frame_time_s; the caller subtracts an offset between
            the clocks. Components with fixes get coordinates in metres east, north, up, also without links between
            them. If the fixes of a component cannot be used, it stays in its own frame, with an alarm.
        frame_time_s: by number of the drive, (N,) times of its frames in seconds, for drives with fixes.
        origin: of these coordinates; None: near the median of the fixes.
        config: deviations of the drives' overlaps.
        standing: an earlier solution, to which new drives and links are added. Only new drives and those linked with
            them are solved, with the others held. A component is solved as a whole if two earlier ones were joined, or
            if at least half of its drives are new. With `standing.again` the solution only begins there.
        map_areas: calls a function with each of some tuples of arguments and returns the results in order, for example
            in tasks of a cluster. It eliminates the areas of a city of 6,000 unknown chunks and more; None: two threads
            of this process do.

    Raises:
        ValueError: no drive; a link or fixes of a drive or frame that does not exist; fixes without times of frames.
    """
    if not drives:
        raise ValueError("expected at least one drive, got none")
    for number, link in enumerate(links):
        for drive, frame in ((link.first, link.first_frame), (link.second, link.second_frame)):
            if drive >= len(drives) or frame >= len(drives[drive].frame_index):
                raise ValueError(f"link {number} names frame {frame} of drive {drive}, which does not exist")
    config = config or BackendConfig()
    every = unknowns_of([len(drive.world_from_chunk) for drive in drives])
    nodes = [with_unknowns(drive, config, _LOOSENESS[-1], every) for drive in drives]
    thin = [one for one, _ in nodes]
    states = [own_state(drive) for drive in thin]
    offset = np.cumsum([0, *(len(state.scale) for state in states)])
    state = State(*(np.concatenate([getattr(s, n) for s in states]) for n in ("scale", "rotation", "translation")))
    joints = _numbered([one for _, one in nodes], offset)
    drive_of_node = np.repeat(np.arange(len(drives), dtype=np.int64), np.diff(offset))
    ends = np.array([(link.first, link.second) for link in links], np.int64).reshape(-1, 2)
    grouping = Grouping(state, joints, _link_rows(links, thin, offset), drive_of_node, ends, map_areas)
    positions = read_positions(thin, offset, fixes or {}, frame_time_s or {}, origin)
    added = Added.of(grouping, standing or Standing(), thin)
    grouping.run()
    added = added.after_joining(grouping)
    verdicts = _judged(grouping, ends, added)

    def loosened(looseness: float, only: set[int] | None = None) -> Joints:
        return _numbered(
            [
                with_unknowns(drive, config, looseness, every)[1] if only is None or n in only else nodes[n][1]
                for n, drive in enumerate(drives)
            ],
            offset,
        )

    used = _tighten(grouping, loosened, added, positions)
    verdicts = _judged_again(grouping, ends, verdicts, used, added, positions)
    grouping.forget()  # the poses of all frames need as much memory
    on_earth, doubts = _onto_earth(grouping, positions, used, added)
    spread = _deviations(grouping, thin, offset, used, positions, on_earth)
    fused = tuple(
        replace(
            _fused(drive, frames_of(thin[n], int(offset[n])), grouping, n, int(grouping.group[n]) in on_earth),
            deviation=spread.get(n, float("nan")),
        )
        for n, drive in enumerate(drives)
    )
    alarms = tuple(
        f"drive {n}: its scale changes by a factor of {drive.scale_range:.2g} along the way; its links may be wrong"
        for n, drive in enumerate(fused)
        if drive.scale_range > _COLLAPSE
    )
    return City(fused, verdicts, (*alarms, *doubts), positions.origin if positions is not None and on_earth else None)


def _onto_earth(
    grouping: Grouping, positions: Positions | None, joints: Mapping[int, Joints], added: Added
) -> tuple[set[int], list[str]]:
    """Components that are on Earth, and an alarm for each component that has fixes and is not."""
    on_earth = set(added.on_earth)
    alarms: list[str] = []
    for group in [] if positions is None else sorted(set(grouping.group[positions.drive].tolist()) - on_earth):
        assert positions is not None
        why = grouping.onto_earth(group, joints[group], positions)
        if why:
            alarms.append(f"the component of drive {group} stays in its own frame: {why}")
        else:
            on_earth.add(group)
    return on_earth, alarms


def _deviations(
    grouping: Grouping,
    drives: Sequence[JoinResult],
    offset: NDArray[np.int64],
    joints: Mapping[int, Joints],
    positions: Positions | None,
    on_earth: set[int],
) -> dict[int, float]:
    answer: dict[int, float] = {}
    middles = {n: frames_of(one, int(offset[n]), np.array([len(one.frame_index) // 2])) for n, one in enumerate(drives)}
    for group, size in zip(*np.unique(grouping.group, return_counts=True), strict=True):
        if size <= _MOST_ASKED:
            earth = positions if int(group) in on_earth else None
            answer |= grouping.deviations(int(group), joints[int(group)], middles, earth)
    return answer


def _numbered(joints: Sequence[Joints], offset: NDArray[np.int64]) -> Joints:
    return Joints.joined([one.numbered_from(int(at)) for one, at in zip(joints, offset, strict=False)])


def _tighten(
    grouping: Grouping,
    joints: Callable[[float, set[int] | None], Joints],
    added: Added,
    positions: Positions | None,
) -> dict[int, Joints]:
    """Solve each component with the tightest joints (smallest looseness) with which its links agree, by their own
    covariances. Returns these joints by component.

    Links are judged with the largest looseness. In the solution it would let the noise of links deform drives that are
    more accurate than the links. In a component to which drives were added, only these and their neighbours are solved.
    """
    used: dict[int, Joints] = {}
    open_ones = sorted(set(grouping.group.tolist()))
    only = None if added.whole else {drive for drives in added.near.values() for drive in drives}
    for looseness in _LOOSENESS:
        tight = joints(looseness, only)
        used |= dict.fromkeys(open_ones, tight)
        left = []
        for group in open_ones:
            near = added.near.get(group)
            links = grouping.links_of(grouping.members(group) if near is None else near, either=near is not None)
            if links:
                if near is None:
                    grouping.settle(group, tight)
                else:
                    grouping.settle_near(near, tight, positions=positions if group in added.on_earth else None)
                if np.median(grouping.own_chi2(links)) > _USUAL:
                    left.append(group)
        open_ones = left
        if not open_ones:
            break
    return used


def _link_rows(links: Sequence[Link], drives: Sequence[JoinResult], offset: NDArray[np.int64]) -> LinkRows:
    def end(which: Sequence[tuple[int, int]]) -> Frames:
        """The frames at one end of all links: computed drive by drive, then in the order of the links."""
        names = ("node", "share", "own_rotation", "own_position", "log_unit")
        ends = np.array(which, np.int64).reshape(-1, 2)
        order = np.argsort(ends[:, 0], kind="stable")
        parts = [frames_of(drives[0], 0, np.zeros(0))]
        for drive in np.unique(ends[:, 0]):
            parts.append(frames_of(drives[drive], int(offset[drive]), ends[order][ends[order, 0] == drive, 1]))
        joined = Frames(*(np.concatenate([getattr(part, n) for part in parts]) for n in names))
        return joined[np.argsort(order, kind="stable")]

    return LinkRows(
        end([(link.first, link.first_frame) for link in links]),
        end([(link.second, link.second_frame) for link in links]),
        np.array([link.second_from_first.rotation for link in links]).reshape(-1, 3, 3),
        np.array([link.second_from_first.translation for link in links]).reshape(-1, 3),
        np.log(np.array([link.second_from_first.scale for link in links])),
        np.array([np.linalg.inv(link.covariance) for link in links]).reshape(-1, 7, 7),
    )


def _judged(grouping: Grouping, ends: NDArray[np.int64], added: Added) -> tuple[LinkVerdict, ...]:
    """Accept rejected links that agree with the solution after all, reject accepted ones that do not, give reasons.

    In a small city each round rejects the worst link of a component, or tests all its rejected links together. In a
    large city this is done for each pair of drives separately, so that few rounds are needed; links that contradict
    clearly are tested again only when the solution came nearer to them, and when few drives changed, these alone are
    solved. Earlier verdicts on links of a component that keeps its earlier solution do not change.
    """
    chi2 = np.full(len(ends), np.inf)
    group_of = grouping.group[ends]
    for group in np.unique(group_of[group_of[:, 0] == group_of[:, 1], 0]).tolist():
        near = added.near.get(group)
        inside = np.flatnonzero((group_of == group).all(1))
        if near is not None:
            known = np.array([n for n in inside.tolist() if n in added.links], np.int64)
            chi2[known] = [added.links[n][1] for n in known.tolist()]
            inside = inside[~np.isin(inside, known)]
        large = not grouping.is_few or near is not None
        if large and near is None:
            grouping.settle(group)
        pair_of = ends[inside].min(1) * len(grouping.group) + ends[inside].max(1) if large else np.zeros(len(inside))
        pairs = [inside[pair_of == pair].tolist() for pair in np.unique(pair_of)]
        whole = True  # whether the component was solved as a whole last
        tested = np.full(len(ends), np.inf)  # own chi2 of rejected links when they were tested
        for _ in range(_ROUNDS_OF_MANY if large else _ROUNDS):
            changed: set[int] = set()  # drives
            own = dict(zip(inside.tolist(), grouping.own_chi2(inside).tolist(), strict=True))
            chi2[inside] = np.where([n in grouping.accepted for n in inside], list(own.values()), chi2[inside])
            for pair in pairs:
                believed = [n for n in pair if n in grouping.accepted]
                worst = max(believed, key=lambda n: chi2[n], default=None)
                if worst is not None and chi2[worst] > BOUND and grouping.holds_without(worst):
                    grouping.discard(worst)
                    changed.update(grouping.ends(worst))
                    continue
                others = [n for n in pair if n not in grouping.accepted]
                if large and not any(chi2[n] < NEARLY * BOUND or own[n] < _FALLEN * tested[n] for n in others):
                    continue
                if others:
                    chi2[others], fits = grouping.weighed(group, others)
                    tested[others] = [own[n] for n in others]
                    new = [n for n, fit in zip(others, fits, strict=True) if fit]
                    grouping.accept(new)
                    changed.update(drive for n in new for drive in grouping.ends(n))
            if not changed and (whole or near is not None):
                break
            whole = not 0 < len(changed) < _FEW_CHANGED * len(grouping.members(group)) or not large
            if near is None and whole:
                grouping.settle(group, most=BRIEFLY)
            elif near is None:
                grouping.settle_near(changed)
            else:
                grouping.settle_near(near)
    return tuple(_verdict(grouping, ends, n, float(chi2[n])) for n in range(len(ends)))


def _judged_again(
    grouping: Grouping,
    ends: NDArray[np.int64],
    verdicts: tuple[LinkVerdict, ...],
    used: Mapping[int, Joints],
    added: Added,
    positions: Positions | None,
) -> tuple[LinkVerdict, ...]:
    """Accept rejected links of a large city, or of drives that were added, that agree with its last solution.

    With the deviations by which links are judged, the end of a drive that is far from any link is tens of metres off,
    more than linear covariances can tell; in the last solution it is not. There nearly any wrong link would agree with
    the end of a drive, so that a lone true one is not confirmed; with the deviations of the last solution it is.
    """
    answer = list(verdicts)
    for _ in range(_AGAIN):
        rejected: dict[tuple[int, int], list[int]] = {}
        own = grouping.own_chi2(np.arange(len(ends)))
        for n, (first, second) in enumerate(ends.tolist()):
            group = int(grouping.group[first])
            if group != grouping.group[second] or n in grouping.accepted:
                continue
            new = group in added.near and n not in added.links
            most = (_FAR if added.again else NEARLY) * BOUND
            if new or (group not in added.near and not grouping.is_few and own[n] < most):
                rejected.setdefault((min(first, second), max(first, second)), []).append(n)
        changed: dict[int, set[int]] = {}
        for pair, links in rejected.items():
            group = int(grouping.group[pair[0]])
            chi2, fits = grouping.weighed(group, links, used[group])
            new_ones = [n for n, fit in zip(links, fits, strict=True) if fit]
            grouping.accept(new_ones)
            if new_ones:
                changed.setdefault(group, set()).update(pair)
            for n, value in zip(links, chi2.tolist(), strict=True):
                answer[n] = _verdict(grouping, ends, n, value)
        for group, drives in changed.items():
            earth = positions if group in added.on_earth else None
            grouping.settle_near(added.near.get(group, drives), used[group], positions=earth)
        if not changed:
            break
    return tuple(answer)


def _verdict(grouping: Grouping, ends: NDArray[np.int64], number: int, chi2: float) -> LinkVerdict:
    first, second = ends[number]
    if number in grouping.accepted:
        alone = grouping.links_between(int(first), int(second)) == 1
        return LinkVerdict(True, chi2, "agrees" + (", the only one between its drives" if alone else ""))
    return LinkVerdict(
        False, chi2, f"contradicts the other links and the drives: chi2 {chi2:.3g}, at most {BOUND:.3g} allowed"
    )


def _fused(drive: JoinResult, frames: Frames, grouping: Grouping, number: int, on_earth: bool) -> FusedDrive:
    rotation, position, log_scale = frames.place(grouping.state)
    pose = np.tile(np.eye(4), (len(position), 1, 1))
    pose[:, :3, :3], pose[:, :3, 3] = rotation, position
    own = np.asarray(drive.world_from_camera, np.float64)
    turn = nearest_rotation((rotation @ own[:, :3, :3].transpose(0, 2, 1)).mean(0))
    scale = float(np.exp(log_scale.mean()))
    shift = position.mean(0) - scale * turn @ own[:, :3, 3].mean(0)
    spread = float(np.exp(log_scale.max() - log_scale.min()))
    return FusedDrive(Sim3(scale, turn, shift), pose, np.exp(log_scale), int(grouping.group[number]), spread, on_earth)

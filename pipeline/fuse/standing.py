"""An earlier solution of drives and links, with which only new drives and their neighbours need to be solved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.backend.join import JoinResult
from pipeline.fuse.consistent_links import Grouping
from pipeline.fuse.drive_nodes import Array, State, own_state
from pipeline.fuse.solved_again import begin_again


@dataclass(frozen=True, eq=False)
class StandingDrive:
    """A drive in an earlier solution: city_from_camera (N, 4, 4), depth_scale (N,) and on_earth as in FusedDrive."""

    city_from_camera: Array
    depth_scale: Array
    on_earth: bool = False


@dataclass(frozen=True, eq=False)
class Standing:
    """An earlier solution. drives: by their present numbers; links: present number -> (accepted, chi2), for links
    between two of these drives that were judged. Drives and links that it does not contain are new. again: all drives
    are solved and all links judged again; the solution only begins there (`solved_again`)."""

    drives: Mapping[int, StandingDrive] = field(default_factory=dict)
    links: Mapping[int, tuple[bool, float]] = field(default_factory=dict)
    again: bool = False


def state_of(drive: JoinResult, standing: StandingDrive) -> State:
    """city_from_chunk of the drive's chunks, each computed from the frame nearest to its middle, because the pose of
    that frame depends on that chunk alone."""
    own = own_state(drive)
    middle = np.array([(first + last) / 2 for first, last in drive.chunk_frames])
    after = np.clip(np.searchsorted(drive.frame_index, middle), 1, max(len(drive.frame_index) - 1, 1))
    after = np.minimum(after, len(drive.frame_index) - 1)
    before = np.maximum(after - 1, 0)
    nearer = np.abs(drive.frame_index[before] - middle) <= np.abs(drive.frame_index[after] - middle)
    at = np.where(nearer, before, after)
    was = np.asarray(drive.world_from_camera, np.float64)[at]
    now = standing.city_from_camera[at]
    turn = now[:, :3, :3] @ was[:, :3, :3].transpose(0, 2, 1)
    scale = standing.depth_scale[at]
    arm = own.translation - was[:, :3, 3]
    place = now[:, :3, 3] + scale[:, None] * np.einsum("nij,nj->ni", turn, arm)
    return State(scale * own.scale, turn @ own.rotation, place)


@dataclass(frozen=True, eq=False)
class Added:
    """Components of an earlier solution, and the drives that are added to them.

    links: as in Standing; drives: of the earlier solution; component: of each of these, before joining; on_earth:
    drives (after joining: components) that were on Earth already; near: component -> drives that are solved while the
    others are held; whole: whether at least one component is solved as a whole;
    again: as in Standing.
    """

    links: Mapping[int, tuple[bool, float]]
    drives: frozenset[int]
    component: Mapping[int, int]
    on_earth: frozenset[int]
    near: Mapping[int, set[int]] = field(default_factory=dict)
    whole: bool = True
    again: bool = False

    @staticmethod
    def of(grouping: Grouping, standing: Standing, drives: Sequence[JoinResult]) -> Added:
        """Put the earlier solution into `grouping`. drives: those from which the chunks of `grouping` were made."""
        states = {n: state_of(drives[n], one) for n, one in standing.drives.items()}
        if standing.again:
            begin_again(grouping, states, standing.links, drives)
            return Added({}, frozenset(), {}, frozenset(), again=True)
        on_earth = frozenset(n for n, one in standing.drives.items() if one.on_earth)
        accepted = [n for n, (good, _) in standing.links.items() if good]
        grouping.resume(states, accepted, on_earth)
        component = {n: int(grouping.group[n]) for n in standing.drives}
        return Added(standing.links, frozenset(standing.drives), component, on_earth)

    def after_joining(self, grouping: Grouping) -> Added:
        """Decide, after groups were joined, which components keep their earlier solution except near new drives."""
        near: dict[int, set[int]] = {}
        on_earth = set()
        whole = False
        for group in sorted(set(grouping.group.tolist())):
            members = grouping.members(group)
            old = members & self.drives
            if len({self.component[n] for n in old}) == 1 and len(members) < 2 * len(old):
                new = (members - old) | {
                    n for link in grouping.links_of(members) if link not in self.links for n in grouping.ends(link)
                }
                near[group] = new | grouping.friends(new)
                if old <= self.on_earth:
                    on_earth.add(group)
            else:
                whole |= len(members) > 1
        return Added(self.links, self.drives, self.component, frozenset(on_earth), near, whole, self.again)

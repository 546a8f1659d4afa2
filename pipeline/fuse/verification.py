"""Candidates -> links: reads and compares frames of both drives, several at a time, in threads or Ray tasks. Every
verdict has a reason."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Sim3
from pipeline.errors import PipelineError
from pipeline.fuse.candidates import GROUND, Candidate
from pipeline.fuse.common_ground import AGAINST, ALIKE
from pipeline.fuse.evidence import NOT_COMPARED, Evidence, Verified
from pipeline.fuse.facade_depths import STEP_SHARE, by_steps, facade_depth
from pipeline.fuse.facing import seen_facing
from pipeline.fuse.ground_chart import ground_chart
from pipeline.fuse.link import Link
from pipeline.fuse.on_ground import GroundLook, look_down, seen_on_ground
from pipeline.fuse.opposite import OPPOSITE, UNCOMPARED
from pipeline.fuse.pictures import grey_picture, points_around
from pipeline.fuse.published_drives import SeenDrive, seen_again
from pipeline.fuse.rig_frames import between_rigs
from pipeline.fuse.side_views import BothSides, axes_of, look_aside
from pipeline.fuse.tasks import Tasks
from pipeline.fuse.two_drives import ALONE, Look, Needed, SeenTogether, look_at, seen_together
from pipeline.publish import PublishedDrive

Array = NDArray[np.float64]

_HELD = 64  # frames whose features are kept in memory, 3 MB each
_AT_A_TIME = 4  # threads that read and compare

T = TypeVar("T")


class _Looks(Generic[T]):
    """The features of the frames that were used last, by result and place of the frame. Threads may share it."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str, int], T | str] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, drive: SeenDrive, place: int, make: Callable[[SeenDrive, int], T | str]) -> T | str:
        """The features of a frame, or the reason why it cannot be read."""
        name = drive.opened.uri, drive.key, place
        with self._lock:
            if name in self._held:
                self._held.move_to_end(name)
                return self._held[name]
        made = make(drive, place)
        with self._lock:
            self._held[name] = made
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
        return made


class Verifier:
    """Reads and compares frames of drives, which are numbered as in candidates. Threads may share it."""

    def __init__(
        self,
        drives: Sequence[SeenDrive] | Mapping[int, SeenDrive],
        looks: _Looks[Look] | None = None,
        looks_aside: _Looks[BothSides] | None = None,
        looks_down: _Looks[GroundLook] | None = None,
    ) -> None:
        self._drives = drives
        self._looks = looks or _Looks[Look]()
        self._looks_aside = looks_aside or _Looks[BothSides]()
        self._looks_down = looks_down or _Looks[GroundLook]()

    def verify_all(
        self, candidates: Sequence[Candidate], evidence: Evidence, done: Callable[[], None], tasks: Tasks | None = None
    ) -> list[Verified]:
        """The verdicts on candidates, in their order. Those that `evidence` knows are not compared again; new ones are
        added to it. A frame that cannot be read is a reason in the verdict. done: is called after each verdict; tasks:
        that compare frames, one for each pair of drives; None: threads of this process. Raises StorageError if evidence
        cannot be written."""
        answers = [evidence.known(one) for one in candidates]
        new = [n for n, answer in enumerate(answers) if answer is None]
        for _ in range(len(candidates) - len(new)):
            done()
        of = [candidates[n] for n in new]
        try:
            for place, answer in self._in_threads(of) if tasks is None else self._in_tasks(of, tasks):
                answers[new[place]] = answer
                evidence.keep(answer)
                done()
        finally:
            evidence.write()
        return [answer for answer in answers if answer is not None]

    def _in_threads(self, candidates: Sequence[Candidate]) -> Iterator[tuple[int, Verified]]:
        with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="verify") as pool:
            try:
                yield from enumerate(pool.map(self.verify, candidates))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _in_tasks(self, candidates: Sequence[Candidate], tasks: Tasks) -> Iterator[tuple[int, Verified]]:
        pairs: dict[tuple[int, int], list[int]] = defaultdict(list)
        for n, one in enumerate(candidates):
            pairs[one.first, one.second].append(n)
        order = sorted(pairs)
        parts = (
            (self._drives[a].unread, self._drives[b].unread, [candidates[n] for n in pairs[a, b]]) for a, b in order
        )
        for number, answers in tasks.each(compared, parts, lost=_not_compared):
            yield from zip(pairs[order[number]], answers, strict=True)

    def verify(self, one: Candidate, needed: Needed = ALONE) -> Verified:
        """Compare the two frames. needed: how many matches must agree, of drives in one direction."""
        if one.opposite and one.by == "positions":
            return Verified(one, None, 0, f"{UNCOMPARED}: the drives went in opposite directions", False)
        if one.by == GROUND:
            found, lasting = self._compared(one, self._looks_down, _look_down, seen_on_ground)
        elif one.opposite:
            found, lasting = self._compared(one, self._looks_aside, _look_aside, seen_facing)
        else:
            found, lasting = self._compared(one, self._looks, _look, partial(seen_together, needed=needed))
        if isinstance(found, str):
            return Verified(one, None, 0, found, lasting)
        link = self.between_instants(one, found.second_from_first, found.covariance)
        reason = f"{found.matches} features ({found.share:.0%}) agree on one relative pose"
        if one.by == GROUND:
            cosine = float(found.second_from_first.rotation[2, 2])  # of the viewing directions
            where = "where both drives cross" if cosine > AGAINST else f"from {OPPOSITE}"
            where = "from one direction" if cosine > ALIKE else where
            reason = f"{found.matches} features of the road ({found.share:.0%}) agree {where}"
        elif one.opposite:
            reason = f"{found.matches} features of facades ({found.share:.0%}) agree from {OPPOSITE}"
        return Verified(one, link, found.matches, reason)

    def between_instants(self, one: Candidate, move: Sim3, covariance: Array) -> Link:
        """The link between the instants of a candidate's frames, from the relative pose of its two cameras."""
        rigs = [self._drives[n].rig for n in (one.first, one.second)]
        poses = (rigs[0].rig_from_camera[one.first_frame], rigs[1].rig_from_camera[one.second_frame])
        moved, of_rigs = between_rigs(*poses, move, covariance)
        instants = int(rigs[0].instant[one.first_frame]), int(rigs[1].instant[one.second_frame])
        return Link(one.first, instants[0], one.second, instants[1], moved, of_rigs)

    def _compared(
        self,
        one: Candidate,
        looks: _Looks[T],
        make: Callable[[SeenDrive, int], T | str],
        compare: Callable[[T, T], SeenTogether | str],
    ) -> tuple[SeenTogether | str, bool]:
        """The relative pose or a reason, and whether another comparison would give the same."""
        both = []
        for drive, place in ((one.first, one.first_frame), (one.second, one.second_frame)):
            look = looks.of(self._drives[drive], place, make)
            if isinstance(look, str):
                return look, False
            both.append(look)
        return compare(both[0], both[1]), True


def _look(drive: SeenDrive, place: int) -> Look | str:
    picture, points = grey_picture(drive, place), points_around(drive, place)
    if isinstance(picture, str) or isinstance(points, str):
        return picture if isinstance(picture, str) else str(points)
    return look_at(*picture, points)


def _look_aside(drive: SeenDrive, place: int) -> BothSides | str:
    picture, points = grey_picture(drive, place), points_around(drive, place)
    if isinstance(picture, str) or isinstance(points, str):
        return picture if isinstance(picture, str) else str(points)
    seen = look_aside(*picture, axes_of(drive, place), points)
    cameras, own = drive.opened.cameras.world_from_camera, np.flatnonzero(drive.rig.camera == drive.rig.camera[place])
    away = np.linalg.norm(cameras[own, :3, 3] - cameras[place, :3, 3], axis=1)
    wanted = STEP_SHARE * facade_depth(seen)
    if not 0 < wanted < away.max():
        return seen
    before = int(own[np.argmin(np.abs(away - wanted))])
    picture = grey_picture(drive, before)
    if isinstance(picture, str):
        return seen
    other = look_aside(*picture, axes_of(drive, before))
    return by_steps(seen, other, np.linalg.inv(cameras[before]) @ cameras[place])


def _look_down(drive: SeenDrive, place: int) -> GroundLook | str:
    chart = ground_chart(drive, place)
    return chart if isinstance(chart, str) else look_down(chart)


# Of a worker, whose tasks often compare the same drive with several others.
_looks_here, _aside_here, _down_here = _Looks[Look](), _Looks[BothSides](), _Looks[GroundLook]()


def compared(first: PublishedDrive, second: PublishedDrive, candidates: Sequence[Candidate]) -> list[Verified]:
    """The verdicts on candidates between two drives, in a task."""
    one = candidates[0]
    try:
        both = {one.first: seen_again(first), one.second: seen_again(second)}
        verifier = Verifier(both, _looks_here, _aside_here, _down_here)
    except PipelineError as error:
        return [Verified(one, None, 0, " ".join(str(error).split()), False) for one in candidates]
    return [verifier.verify(one) for one in candidates]


def _not_compared(first: PublishedDrive, second: PublishedDrive, candidates: Sequence[Candidate]) -> list[Verified]:
    reason = f"{NOT_COMPARED}: the process that compared the two frames ended each time"
    return [Verified(one, None, 0, reason, False) for one in candidates]

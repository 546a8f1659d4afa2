"""Candidates -> links: reads and compares frames of both drives, several at a time, in threads or Ray tasks. Every
verdict has a reason."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.backend.sim3 import Sim3
from pipeline.drive_images import read_frames
from pipeline.errors import PipelineError
from pipeline.fuse.candidates import Candidate
from pipeline.fuse.evidence import Evidence, Verified
from pipeline.fuse.link import Link
from pipeline.fuse.published_drives import SeenDrive, seen_again
from pipeline.fuse.rig_frames import between_rigs
from pipeline.fuse.tasks import Tasks
from pipeline.fuse.two_drives import ALONE, Look, Needed, look_at, seen_together
from pipeline.ingest.preprocess import rectified_image
from pipeline.publish import PublishedDrive

Array = NDArray[np.float64]

_AROUND = 5  # a frame's depths come from points of so many instants before and after it
_MOST_POINTS = 400_000  # that are used for a picture
_HELD = 64  # frames whose features are kept in memory, 3 MB each
_AT_A_TIME = 4  # threads that read and compare
_LONG_SIDE = 1280  # pixels: larger pictures are reduced


class _Looks:
    """The features of the frames that were used last, by result and place of the frame. Threads may share it."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str, int], Look | str] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, drive: SeenDrive, place: int, make: Callable[[], Look | str]) -> Look | str:
        """The features of a frame, or the reason why it cannot be read."""
        name = drive.opened.uri, drive.key, place
        with self._lock:
            if name in self._held:
                self._held.move_to_end(name)
                return self._held[name]
        made = make()
        with self._lock:
            self._held[name] = made
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
        return made


class Verifier:
    """Reads and compares frames of drives, which are numbered as in candidates. Threads may share it."""

    def __init__(self, drives: Sequence[SeenDrive] | Mapping[int, SeenDrive], looks: _Looks | None = None) -> None:
        self._drives = drives
        self._looks = looks or _Looks()

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
        """Compare the two frames. needed: how many matches must agree."""
        if one.opposite:
            return Verified(one, None, 0, "not compared: the drives went in opposite directions", False)
        first, second = self._look(one.first, one.first_frame), self._look(one.second, one.second_frame)
        if isinstance(first, str) or isinstance(second, str):
            return Verified(one, None, 0, first if isinstance(first, str) else str(second), False)
        found = seen_together(first, second, needed)
        if isinstance(found, str):
            return Verified(one, None, 0, found)
        link = self.between_instants(one, found.second_from_first, found.covariance)
        reason = f"{found.matches} features ({found.share:.0%}) agree on one relative pose"
        return Verified(one, link, found.matches, reason)

    def between_instants(self, one: Candidate, move: Sim3, covariance: Array) -> Link:
        """The link between the instants of a candidate's frames, from the relative pose of its two cameras."""
        rigs = [self._drives[n].rig for n in (one.first, one.second)]
        poses = (rigs[0].rig_from_camera[one.first_frame], rigs[1].rig_from_camera[one.second_frame])
        moved, of_rigs = between_rigs(*poses, move, covariance)
        instants = int(rigs[0].instant[one.first_frame]), int(rigs[1].instant[one.second_frame])
        return Link(one.first, instants[0], one.second, instants[1], moved, of_rigs)

    def _look(self, drive: int, place: int) -> Look | str:
        seen = self._drives[drive]
        return self._looks.of(seen, place, lambda: self._made(seen, place))

    def _made(self, drive: SeenDrive, place: int) -> Look | str:
        cameras, opened = drive.opened.cameras, drive.opened
        frame = int(cameras.frame_index[place])
        try:
            # Frame numbers are rows of the poses table, by which read_frames counts.
            (_, image), *_ = list(read_frames(opened, [frame]))
            if isinstance(image, str):
                return f"drive {drive.drive_id}: frame {frame} cannot be read: {image}"
            grey, intrinsics = self._picture(opened.lens, image, cameras.intrinsics[place], drive)
            around = _AROUND * drive.rig.count
            low, high = max(frame - around, 0), frame + around + 1
            table = opened.points(columns=["x", "y", "z"], frames=(low, high))
        except PipelineError as error:
            return f"drive {drive.drive_id}: frame {frame}: {' '.join(str(error).split())}"
        xyz = np.stack([table[axis].to_numpy() for axis in "xyz"], -1).astype(np.float64)
        xyz = xyz[:: max(len(xyz) // _MOST_POINTS, 1)]
        pose = cameras.world_from_camera[place]
        return look_at(grey, intrinsics, (xyz - pose[:3, 3]) @ pose[:3, :3])

    def _picture(
        self, lens: object, image: Image.Image, intrinsics: NDArray[np.float64], drive: SeenDrive
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """The grey picture (h, w) as a pinhole camera sees it, and its intrinsics (4,): fx fy cx cy in pixels."""
        view = drive.opened.undistorted_view() if lens is not None else None
        if view is not None:
            image = Image.fromarray(rectified_image(image.convert("RGB"), view))
            intrinsics = np.asarray(view.pinhole.intrinsics)
        grey = np.asarray(image.convert("L"))
        factor = _LONG_SIDE / max(grey.shape)
        if factor < 1:
            size = (round(grey.shape[1] * factor), round(grey.shape[0] * factor))
            scale = np.array([size[0] / grey.shape[1], size[1] / grey.shape[0]])
            grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
            intrinsics = intrinsics * np.concatenate([scale, scale])
        return grey, intrinsics


_looks_here = _Looks()  # of a worker, whose tasks often compare the same drive with several others


def compared(first: PublishedDrive, second: PublishedDrive, candidates: Sequence[Candidate]) -> list[Verified]:
    """The verdicts on candidates between two drives, in a task."""
    one = candidates[0]
    try:
        verifier = Verifier({one.first: seen_again(first), one.second: seen_again(second)}, _looks_here)
    except PipelineError as error:
        return [Verified(one, None, 0, " ".join(str(error).split()), False) for one in candidates]
    return [verifier.verify(one) for one in candidates]


def _not_compared(first: PublishedDrive, second: PublishedDrive, candidates: Sequence[Candidate]) -> list[Verified]:
    reason = "not compared: the process that compared the two frames ended each time"
    return [Verified(one, None, 0, reason, False) for one in candidates]

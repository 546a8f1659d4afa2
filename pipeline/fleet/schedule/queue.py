"""The queue of planned drives: longest first, in waves that get smaller towards the end; failed ones come again later.

Each wave costs its group one start (45 s with the published weights), so waves should be long. The last waves should be
short, so that all groups end at about the same time. A group therefore takes 90 % of its share of the waiting frames,
and all of its share when few frames are left.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time

from pipeline.fleet.plan.drive_plan import PlannedDrive

# Part of a group's share of the waiting frames that one wave takes. The rest balances drives that took longer than
# estimated.
_SHARE = 0.9
# A share below this many frames is taken whole: ten minutes of a GPU, as long as a dozen starts of a group.
_WORTH_A_START = 6000


class DriveQueue:
    """Safe across threads. A drive that was taken counts as out until `done` or `put_back` is called for it."""

    def __init__(self, groups: int, wave_drives: int, wave_frames: int) -> None:
        self._groups, self._wave_drives, self._wave_frames = groups, wave_drives, wave_frames
        self._heap: list[tuple[int, int, PlannedDrive]] = []
        self._alone: list[tuple[float, int, PlannedDrive]] = []  # (ready at, ...); each is a wave of its own
        self._later: list[tuple[float, int, PlannedDrive]] = []
        self._numbers = itertools.count()
        self._frames = 0  # of the drives in the heap
        self._out = 0
        self._closed = False
        self._stopped = False
        self._changed = threading.Condition()

    def add(self, planned: PlannedDrive) -> None:
        """Add a drive that was not taken before."""
        with self._changed:
            self._push(planned)
            self._changed.notify_all()

    def put_back(self, planned: PlannedDrive, *, after_s: float = 0.0, alone: bool = False) -> None:
        """Put back a drive that was taken. after_s: seconds until it can be taken again; alone: as the only one."""
        with self._changed:
            self._out -= 1
            entry = (time.monotonic() + after_s, next(self._numbers), planned)
            heapq.heappush(self._alone if alone else self._later, entry)
            self._changed.notify_all()

    def done(self, count: int = 1) -> None:
        """This many taken drives will not be put back."""
        with self._changed:
            self._out -= count
            self._changed.notify_all()

    def close(self) -> None:
        """No new drives will be added."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out no more drives."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def take_wave(self) -> list[PlannedDrive]:
        """The drives for one start of a group, longest first. Waits until there are some; empty: there are no more."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    self._push(heapq.heappop(self._later)[2])
                if self._heap:
                    return self._wave()
                if self._alone and self._alone[0][0] <= now:
                    self._out += 1
                    return [heapq.heappop(self._alone)[2]]
                if self._closed and not self._out and not self._later and not self._alone:
                    self._changed.notify_all()
                    return []
                ready = [entries[0][0] for entries in (self._later, self._alone) if entries]
                self._changed.wait(max(min(ready) - now, 0.01) if ready else None)
            return []

    def _push(self, planned: PlannedDrive) -> None:
        heapq.heappush(self._heap, (-planned.frames, next(self._numbers), planned))
        self._frames += planned.frames

    def _wave(self) -> list[PlannedDrive]:
        share = self._frames / self._groups
        most = min(self._wave_frames, max(_SHARE * share, min(share, _WORTH_A_START)))
        wave: list[PlannedDrive] = []
        frames = 0
        while self._heap and len(wave) < self._wave_drives:
            following = self._heap[0][2].frames
            if wave and frames + following > most:
                break
            wave.append(heapq.heappop(self._heap)[2])
            frames += following
        self._frames -= frames
        self._out += len(wave)
        return wave

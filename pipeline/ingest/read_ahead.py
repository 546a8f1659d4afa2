"""Reads files in advance, so that the decoding core does not wait for a store.

An object store answers after 10 to 100 ms, and a frame is decoded and resized in some 10 ms. If files were read one
after the other, the core would wait most of the time. The number of reads at a time follows from both measured times.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

MOST_READS = 16  # at a time, by one decoding task: a store limits requests, and a frame may have 10 MB
_NEW_SHARE = 0.3  # weight of the newest measurement in the running mean

Contents = Callable[[], bytes]
"""Returns the contents of one file, or raises what reading it raised."""


def read_ahead(uris: Sequence[str], read: Callable[[str], bytes]) -> Generator[Contents, None, None]:
    """The contents of files, in order. The caller works on one while the next ones are read. Close it at the end.

    Args:
        uris: of the files.
        read: called with one of them, in a thread of its own; up to MOST_READS calls run at a time.
    """
    pool = ThreadPoolExecutor(MOST_READS, thread_name_prefix="frames")
    under_way: deque[Future[tuple[bytes, float]]] = deque()
    depth = Depth()
    started = 0
    try:
        for place in range(len(uris)):
            while started < min(len(uris), place + depth.reads):
                under_way.append(pool.submit(_timed, read, uris[started]))
                started += 1
            answer = under_way.popleft()
            if answer.exception() is None:  # waits for it
                depth.note_read(answer.result()[1])
            begin = time.perf_counter()
            yield partial(_contents, answer)
            depth.note_work(time.perf_counter() - begin)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class Depth:
    """How many files must be under way so that the next one is there when the work on one is done.

    A read of `r` seconds and work of `w` seconds a file: r / w reads at a time keep up, and one more waits.
    """

    def __init__(self) -> None:
        self._read_s = self._work_s = 0.0

    @property
    def reads(self) -> int:
        """Files that are read or wait for their turn, 2 to MOST_READS."""
        if self._work_s == 0.0:
            return 2
        return min(1 + math.ceil(self._read_s / self._work_s), MOST_READS)

    def note_read(self, seconds: float) -> None:
        """A file was read in so many seconds."""
        self._read_s = _mean(self._read_s, seconds)

    def note_work(self, seconds: float) -> None:
        """The work on a file took so many seconds."""
        self._work_s = _mean(self._work_s, seconds)


def _mean(before: float, now: float) -> float:
    return now if before == 0.0 else before + _NEW_SHARE * (now - before)


def _contents(answer: Future[tuple[bytes, float]]) -> bytes:
    return answer.result()[0]


def _timed(read: Callable[[str], bytes], uri: str) -> tuple[bytes, float]:
    begin = time.perf_counter()
    data = read(uri)
    return data, time.perf_counter() - begin

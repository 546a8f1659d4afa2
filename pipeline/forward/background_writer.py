"""Work done behind the computation, in order, by one thread: writing what was computed while the next is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Behind:
    """Runs what it is given one after the other, at most `most` waiting: whoever gives more waits.

    An error is raised where the next work is given, or by `flush`; what was to come after it is not done.
    """

    def __init__(self, most: int = 1) -> None:
        self._most = most
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="behind")
        self._given: deque[Future[None]] = deque()

    def submit(self, work: Callable[[], None]) -> None:
        """Do this behind. Waits while too much waits; raises what earlier work raised."""
        while self._given and (len(self._given) > self._most or self._given[0].done()):
            self._given[0].result()
            self._given.popleft()
        self._given.append(self._thread.submit(work))

    def flush(self) -> None:
        """Wait until all is done; raises what any of it raised."""
        while self._given:
            self._given[0].result()
            self._given.popleft()

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """After an error what has not begun is dropped; else all is done first."""
        try:
            if kind is None:
                self.flush()
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)

"""Work in the background, in order, by one thread: what was computed is written while the next is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class BackgroundWriter:
    """Runs the work it is given, one piece after the other. At most `most` pieces wait beside the one that runs; a
    caller that gives more waits. most 0: the piece before must be done.

    An error is raised where the next piece is given, or by `flush`; the pieces after it are not run.
    """

    def __init__(self, most: int = 1) -> None:
        self._most = most
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._given: deque[Future[None]] = deque()

    def submit(self, work: Callable[[], None]) -> None:
        """Do this in the background. Waits while too much waits; raises what earlier work raised."""
        while self._given and (len(self._given) > self._most or self._given[0].done()):
            self._given[0].result()
            self._given.popleft()
        self._given.append(self._thread.submit(work))

    def flush(self) -> None:
        """Wait until all is done; raises what any of it raised."""
        while self._given:
            self._given[0].result()
            self._given.popleft()

    def close(self) -> None:
        """Wait for the work that runs; what has not begun is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """After an error what has not begun is dropped; else all is done first."""
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

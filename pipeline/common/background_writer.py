"""One thread that does work in the background, in order: a result is written while the next one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class BackgroundWriter:
    """Runs pieces of work one after the other. At most `most` pieces wait beside the one that runs; `submit` blocks
    while there are more. With most = 0 it blocks until the piece before is done.

    The error of a piece is raised by the next `submit` or `flush`; the pieces after it are not run.
    """

    def __init__(self, most: int = 1) -> None:
        self._most = most
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._given: deque[Future[None]] = deque()

    def submit(self, work: Callable[[], None]) -> None:
        """Add a piece of work. Blocks while too many pieces wait; raises what an earlier piece raised."""
        while self._given and (len(self._given) > self._most or self._given[0].done()):
            self._given[0].result()
            self._given.popleft()
        self._given.append(self._thread.submit(work))

    def flush(self) -> None:
        """Wait until all pieces are done; raises what one of them raised."""
        while self._given:
            self._given[0].result()
            self._given.popleft()

    def close(self) -> None:
        """Wait for the piece that runs; pieces that have not begun are dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """After an error, pieces that have not begun are dropped; without one, all pieces are done first."""
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

"""Slots for ranks: groups of different sizes share the cluster's GPUs, in the order of their requests."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Slots:
    """Limits the ranks that run at a time. Safe across threads. Requests are served in order, so that a small request
    does not overtake a large one."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Wait for `count` free slots (at most `total`), and hold them inside the context."""
        count = min(count, self.total)
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            while self._waiting[0] is not ticket or self._free < count:
                self._changed.wait()
            self._waiting.popleft()
            self._free -= count
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()

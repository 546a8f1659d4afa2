"""Tells the user of every wait of more than ten seconds: what the program waits for, and until when."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator

from pipeline.common.secrets import without_secrets
from pipeline.common.visible_text import visible

LONG_S = 10.0
_LOOK_EVERY_S = 1.0

Say = Callable[[str], None]
_listeners: list[weakref.WeakMethod[Say]] = []
_calls: dict[int, tuple[str, float, float]] = {}  # what, since when, how long at the most
_numbers = itertools.count()
_lock = threading.Lock()
_watcher: threading.Thread | None = None


def listen(say: Say) -> None:
    """From now on, `say` gets the lines about waits, as long as its object lives. Only the newest listener gets them;
    without a listener they go to stderr."""
    with _lock:
        _listeners.append(weakref.WeakMethod(say))


def leave(say: Say) -> None:
    """The opposite of `listen`."""
    with _lock, contextlib.suppress(ValueError):
        _listeners.remove(weakref.WeakMethod(say))


def say_wait(what: str, seconds: float) -> None:
    """Call this before a wait of at most so many seconds for `what`; it tells the user if that is long."""
    if seconds > LONG_S:
        _say(f"waits for {what}, until {_clock(seconds)} at the latest ({seconds:.0f} s)")


@contextlib.contextmanager
def long_call(what: str, most_s: float) -> Iterator[None]:
    """Put this around a call of other code that may wait: the user is told once the call has taken LONG_S. most_s: the
    time after which the call ends at the latest."""
    global _watcher
    with _lock:
        number = next(_numbers)
        _calls[number] = (what, time.monotonic(), most_s)
        if _watcher is None:
            _watcher = threading.Thread(target=_watch, name="waits", daemon=True)
            _watcher.start()
    try:
        yield
    finally:
        with _lock:
            _calls.pop(number, None)


def _watch() -> None:
    global _watcher
    while True:
        time.sleep(_LOOK_EVERY_S)
        now = time.monotonic()
        with _lock:
            if not _calls:
                _watcher = None
                return
            late = [(number, *call) for number, call in _calls.items() if now - call[1] > LONG_S]
            for number, *_ in late:
                del _calls[number]  # said once
        for _, what, since, most_s in late:
            left = max(since + most_s - now, 0.0)
            _say(f"waits for {what} since {now - since:.0f} s, about until {_clock(left)} at the latest")


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))


def _say(text: str) -> None:
    with _lock:
        say = next((heard for one in reversed(_listeners) if (heard := one()) is not None), None)
    with contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more: no reason to end the wait
        if say is not None:
            say(text)
        else:
            print(without_secrets(visible(text)), file=sys.stderr, flush=True)

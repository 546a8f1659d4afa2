"""Whether something that failed is tried again, and after how long. Nothing else in the pipeline decides that.

A network client tries again within a call, for seconds; what is here begins when such a call has failed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from pipeline.common.waits import say_wait
from pipeline.errors import PipelineError
from pipeline.storage.failures import UnreachableError

T = TypeVar("T")
STORE_WAITS_S = (1.0, 4.0, 15.0)
"""Seconds between tries when a store does not answer: together enough for a server that is being restarted."""


def is_retryable(error: BaseException) -> bool:
    """Whether another try may succeed later. Errors that the pipeline does not know (a bug, a full disk, a lost node)
    are taken to be retryable."""
    return error.retryable if isinstance(error, PipelineError) else True


def wait_before_retry(error: BaseException, tries: int, waits_s: Sequence[float]) -> float | None:
    """Seconds to wait before what failed `tries` times (1: for the first time) is tried again; None: not again."""
    return waits_s[tries - 1] if tries <= len(waits_s) and is_retryable(error) else None


def doubling(first_s: float, tries: int) -> tuple[float, ...]:
    """The waits between `tries` tries, each twice the one before."""
    return tuple(first_s * 2**number for number in range(tries - 1))


def patiently(ask: Callable[[], T], waits_s: Sequence[float] | None = None) -> T:
    """Ask, again after each wait (STORE_WAITS_S) where the store did not answer. Raises what ask raises."""
    for tries in itertools.count(1):
        try:
            return ask()
        except UnreachableError as error:
            wait = wait_before_retry(error, tries, STORE_WAITS_S if waits_s is None else waits_s)
            if wait is None:
                raise
            say_wait(f"the next try ({error})", wait)
            time.sleep(wait)
    raise AssertionError("unreachable")

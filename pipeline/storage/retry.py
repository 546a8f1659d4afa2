"""Decides whether something that failed is tried again, and after how long. Nothing else in the pipeline decides that.

A network client itself tries again for some seconds within one call. The retries here begin after such a call failed.
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
"""Seconds between tries when a store does not answer. Together they are long enough to restart a server."""


def is_retryable(error: BaseException) -> bool:
    """Whether another try may succeed later. All errors but the pipeline's own (a bug, a full disk, a lost node) count
    as retryable."""
    return error.retryable if isinstance(error, PipelineError) else True


def wait_before_retry(error: BaseException, tries: int, waits_s: Sequence[float]) -> float | None:
    """Seconds to wait before the next try of something that has failed `tries` times; None: do not try again."""
    return waits_s[tries - 1] if tries <= len(waits_s) and is_retryable(error) else None


def doubling(first_s: float, tries: int) -> tuple[float, ...]:
    """The waits between `tries` tries, each twice the one before."""
    return tuple(first_s * 2**number for number in range(tries - 1))


def patiently(ask: Callable[[], T], waits_s: Sequence[float] | None = None) -> T:
    """Call `ask`; where the store does not answer, call it again after each of `waits_s` (by default STORE_WAITS_S).
    Raises what `ask` raises."""
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

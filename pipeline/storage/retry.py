"""What is asked of a store before a drive is in anybody's hands is asked again while a server may be restarting."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.storage.failures import UnreachableError

T = TypeVar("T")
PATIENCE_S = (1.0, 4.0, 15.0)
"""Waits before what the store did not give is asked for again: enough for a server that is restarted."""


def patiently(ask: Callable[[], T]) -> T:
    """Ask, a few times where the store does not answer. Raises what ask raises."""
    for pause in PATIENCE_S:
        try:
            return ask()
        except UnreachableError:
            time.sleep(pause)
    return ask()

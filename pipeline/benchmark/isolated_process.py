"""Runs a measurement in a new process, so that the process' memory is that of the measurement only."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def run_isolated(work: Callable[..., T], *arguments: object) -> T:
    """work(*arguments) in a new process; `work`, arguments and result must be picklable. Its errors are raised here."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        answer: T = pickle.loads(pool.apply(_pickled, (work, arguments)))
    return answer


def _pickled(work: Callable[..., object], arguments: tuple[object, ...]) -> bytes:
    """Pickled by value: torch would send tensors as shared memory, which ends with the process."""
    return pickle.dumps(work(*arguments))

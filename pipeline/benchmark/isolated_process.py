"""A measurement in a process of its own, so that its memory is its own."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_child(work: Callable[..., T], *arguments: object) -> T:
    """work(*arguments) in a fresh process; it and what goes in and out must be picklable. Raises what it raised."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        answer: T = pickle.loads(pool.apply(_pickled, (work, arguments)))
    return answer


def _pickled(work: Callable[..., object], arguments: tuple[object, ...]) -> bytes:
    """By value: torch would hand tensors over as shared memory, which goes with the process."""
    return pickle.dumps(work(*arguments))

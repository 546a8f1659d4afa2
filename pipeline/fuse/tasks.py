"""Computes parts of a fuse run in Ray tasks, some at a time, and again where a worker dies."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import cv2
import ray
import threadpoolctl

from pipeline.common.root_cause import root_cause
from pipeline.errors import ClusterError

_CPUS = 1
_AHEAD = 2  # tasks for each core: one runs, one waits
_ENDS_WITHIN_S = 10.0
_RETRIES = 4  # times that a part is computed again because its worker or node ended

T = TypeVar("T")


class Tasks:
    """Ray tasks of one core each. Ray must run.

    The parts of `each` and `mapped` are the arguments of a function of this package, which returns the same whenever it
    is called again. A worker or a node that dies therefore only delays.
    """

    def __init__(self) -> None:
        self._ahead = _AHEAD * max(int(ray.cluster_resources().get("CPU", 1)), 1)

    def keep(self, one: object) -> ray.ObjectRef[object]:
        """Put an object into the cluster's memory, once for many tasks. As an argument it stands for the object."""
        return ray.put(one)

    def each(
        self,
        work: Callable[..., T],
        parts: Iterable[tuple[object, ...]],
        lost: Callable[..., T] | None = None,
    ) -> Iterator[tuple[int, T]]:
        """The number of each part and work(*part), in the order in which they end. `parts` is read as tasks begin, so
        that few of them are in memory.

        lost: its result stands for a part whose worker ended five times (with a damaged file it may always); None:
        this raises ClusterError. Raises what `work` raises.
        """
        task = ray.remote(num_cpus=_CPUS, max_retries=_RETRIES)(_on_one_thread)
        numbered = enumerate(parts)
        running: dict[ray.ObjectRef[T], tuple[int, tuple[object, ...]]] = {}
        try:
            while True:
                for number, part in itertools.islice(numbered, max(self._ahead - len(running), 0)):
                    running[task.remote(work, *part)] = number, part
                if not running:
                    return
                (done,), _ = ray.wait(list(running), num_returns=1)
                number, part = running.pop(done)
                try:
                    answer = ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, Exception):
                        raise error.cause from error
                    raise
                except ray.exceptions.RayError as error:
                    if lost is None:
                        raise ClusterError(f"a part of the city could not be computed: {root_cause(error)}") from error
                    answer = lost(*part)
                yield number, answer
        finally:
            if running:  # nothing writes to the city after an error has ended the run
                ended, _ = ray.wait(list(running), num_returns=len(running), timeout=_ENDS_WITHIN_S)
                for one in ended:
                    with contextlib.suppress(Exception):  # else Ray prints each error that nobody asked for
                        ray.get(one)

    def mapped(self, work: Callable[..., T], parts: Sequence[tuple[object, ...]]) -> list[T]:
        """work(*part) of each part, in their order. Raises as `each`."""
        return [answer for _, answer in sorted(self.each(work, parts), key=lambda one: one[0])]


def _on_one_thread(work: Callable[..., T], *arguments: object) -> T:
    cv2.setNumThreads(1)
    with threadpoolctl.threadpool_limits(1):
        return work(*arguments)

"""Benchmarks of speed, memory use and accuracy on this machine. In: the settings of a subject. Out: Measured.

A subject is a frozen dataclass of settings with a method `measure`. There is one file per subject; `jobs/benchmark.py`
lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pipeline.benchmark.machine import Machine
from pipeline.benchmark.report import Measured, Row

Say = Callable[[str], None]
"""Prints one line of progress."""


class Subject(Protocol):
    """Something that can be measured."""

    def measure(self, say: Say) -> Measured:
        """Measure and report progress. Raises ValueError for settings that cannot be measured on this machine."""
        ...


__all__ = ["Machine", "Measured", "Row", "Say", "Subject"]

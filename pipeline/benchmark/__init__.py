"""How fast and how small, measured on the machine it runs on. Comes in: a subject's settings. Goes out: Measured.

A subject is a frozen dataclass of its settings with `measure`; one file a subject, named in `jobs/benchmark.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pipeline.benchmark.machine import Machine
from pipeline.benchmark.report import Measured, Row

Say = Callable[[str], None]
"""One line for whoever watches."""


class Subject(Protocol):
    """What can be measured."""

    def measure(self, say: Say) -> Measured:
        """Measure, telling how far it is. Raises ValueError for settings that cannot be measured here."""
        ...


__all__ = ["Machine", "Measured", "Row", "Say", "Subject"]

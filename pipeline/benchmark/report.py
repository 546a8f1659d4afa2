"""The result of a benchmark, as JSON and as a table of figures and targets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from pipeline.benchmark.machine import Machine


@dataclass(frozen=True)
class Row:
    """One line of the table. target: None without one; met: whether it was reached, None without one."""

    name: str
    value: str
    target: str | None = None
    met: bool | None = None


@dataclass(frozen=True)
class Measured:
    """values: figures by name, for JSON; rows: the same as a table; figure: a PNG, None without a plot; must: the
    command fails if a target is missed."""

    values: Mapping[str, object]
    rows: tuple[Row, ...]
    figure: bytes | None = field(default=None, repr=False)
    must: bool = False

    @property
    def failed(self) -> bool:
        """Whether a target was missed and `must` is set."""
        return self.must and any(row.met is False for row in self.rows)


def to_json(what: str, settings: Mapping[str, object], machine: Machine, measured: Measured) -> str:
    """One JSON object with the subject, its settings, the machine, and the values at the top level."""
    whole = {"what": what, "settings": settings, "machine": machine.to_json(), **measured.values}
    return json.dumps(whole, indent=1, allow_nan=False) + "\n"


def print_table(what: str, machine: Machine, measured: Measured) -> None:
    """Print the table to standard output."""
    console = Console(width=120, highlight=False)
    table = Table("what", "measured", "target", "", title=what, title_justify="left")
    for row in measured.rows:
        verdict = "" if row.met is None else "met" if row.met else "MISSED"
        table.add_row(row.name, row.value, row.target or "", verdict)
    console.print(table)
    console.print(str(machine), markup=False)


def rate(count: float, seconds: float, unit: str) -> str:
    """A rate as text, such as "124.3 JPEG/s"."""
    return f"{count / seconds:,.1f} {unit}/s"

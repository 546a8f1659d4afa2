"""What a benchmark found, as JSON and as a table with the targets beside the figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from pipeline.benchmark.machine import Machine


@dataclass(frozen=True)
class Row:
    """One line of the table. target and met: what was hoped for and whether it was reached; None without."""

    name: str
    value: str
    target: str | None = None
    met: bool | None = None


@dataclass(frozen=True)
class Measured:
    """values: named numbers for machines (JSON); rows: the same for people; figure: a PNG, where one was drawn.
    must: a target that is missed makes the command fail."""

    values: Mapping[str, object]
    rows: tuple[Row, ...]
    figure: bytes | None = field(default=None, repr=False)
    must: bool = False

    @property
    def failed(self) -> bool:
        """Whether a target was missed that must not be."""
        return self.must and any(row.met is False for row in self.rows)


def to_json(what: str, settings: Mapping[str, object], machine: Machine, measured: Measured) -> str:
    """One JSON object: the subject, its settings, the machine, and the values at the top level."""
    whole = {"what": what, "settings": settings, "machine": machine.to_json(), **measured.values}
    return json.dumps(whole, indent=1, allow_nan=False) + "\n"


def print_table(what: str, machine: Machine, measured: Measured) -> None:
    """The table on standard output."""
    console = Console(width=120, highlight=False)
    table = Table("what", "measured", "target", "", title=what, title_justify="left")
    for row in measured.rows:
        verdict = "" if row.met is None else "met" if row.met else "MISSED"
        table.add_row(row.name, row.value, row.target or "", verdict)
    console.print(table)
    console.print(str(machine), markup=False)


def rate(count: float, seconds: float, unit: str) -> str:
    """Such as "124.3 JPEG/s"."""
    return f"{count / seconds:,.1f} {unit}/s"

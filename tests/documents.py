"""Writes the parts of documents that the code determines: `python -m tests.documents`, also `make documents`.

A generated part stands between `<!-- NAME... -->` and `<!-- /NAME -->`. `tests/test_documents.py` compares.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from jobs.help_text import metavar
from pipeline.common.settings import Setting, settings_of
from pipeline.config import RunConfig
from pipeline.fleet.schedule.drive_states import diagram
from pipeline.fuse import FuseConfig
from pipeline.schema import TABLES
from pipeline.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]


def layers() -> str:
    """The import layers of pyproject.toml, top first."""
    contracts: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    rows = ["| layer | folders and files |", "| --- | --- |", "| 0 | `jobs/` |"]
    named = {contract["name"]: contract["layers"] for contract in contracts if contract["type"] == "layers"}
    for number, layer in enumerate(named["the layers of the pipeline"], 1):
        parts = [part.strip(" ()") for part in layer.split("|")]
        there = [part for part in parts if (ROOT / "pipeline" / part).exists() or _file(part).exists()]
        if there:
            names = ", ".join(f"`{part}.py`" if _file(part).exists() else f"`{part}/`" for part in there)
            rows.append(f"| {number} | {names} |")
    rows.append(f"| {len(rows) - 2} | `models/` |")
    rooms = " -> ".join(f"`{room}`" for room in named["the rooms of the fleet"])
    return "\n".join([*rows, "", f"Inside `fleet/`: {rooms.replace('|', 'and').replace(':', 'and')}."])


def tables() -> str:
    """Every table of a result with every column, from pipeline/schema.py."""
    lines: list[str] = []
    for name, schema in TABLES.items():
        title = (schema.metadata or {})[b"title"].decode()
        lines += [f"### {name}: {title}", "", "| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
        for field in schema:
            about = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
            kind = f"{field.type}{', may be null' if field.nullable else ''}"
            meaning = about["description"].replace("|", "or")
            lines.append(f"| `{field.name}` | {kind} | {about.get('unit', '')} | {meaning} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def settings(kind: type, *, of_results: bool) -> str:
    """Every setting of a dataclass, a table for each of its sections. of_results: they can be part of an identity."""
    sections: dict[str, list[Setting]] = {}
    for one in settings_of(kind):
        sections.setdefault(".".join(one.path[:-1]), []).append(one)
    lines: list[str] = []
    for name, settings in sections.items():
        if name:
            lines += [f"### [{name}]", "", " ".join(settings[0].section.split()), ""]
        titles = ["setting", "type", "default", "in --help", *["part of the identity"][:of_results], "meaning"]
        lines += [_row(titles), _row(["---"] * len(titles))]
        for one in settings:
            values = [f"`{one.name}`", metavar(one.kind).replace("|", " or "), _default(one.default)]
            values.append("" if one.expert else one.group or "options")
            lines.append(_row([*values, *[one.identity.said][:of_results], one.text.replace("|", "or")]))
        lines.append("")
    return "\n".join(lines).rstrip()


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _default(value: object) -> str:
    if value is MISSING:
        return "required"
    return "" if value is None or value == () else f"`{value}`"


PARTS: dict[tuple[str, str], Callable[[], str]] = {
    ("pipeline/README.md", "layers"): layers,
    ("pipeline/publish/README.md", "tables"): tables,
    ("pipeline/fleet/README.md", "states"): diagram,
    ("pipeline/settings.md", "reconstruct"): lambda: settings(RunConfig, of_results=True),
    ("pipeline/settings.md", "fuse"): lambda: settings(FuseConfig, of_results=False),
    ("pipeline/settings.md", "train"): lambda: settings(TrainConfig, of_results=False),
}
"""(document, name of the part) -> what makes it."""


def with_part(text: str, name: str, content: str) -> str:
    """The text of a document with one part replaced. Raises ValueError where it has no such part."""
    found = re.search(rf"(<!-- {name}\b[^>]*-->\n).*?(<!-- /{name} -->)", text, re.S)
    if found is None:
        raise ValueError(f"no part {name} in the document")
    return f"{text[: found.end(1)]}\n{content}\n\n{text[found.start(2) :]}"


def _file(part: str) -> Path:
    return ROOT / "pipeline" / f"{part}.py"


def main() -> None:
    """Write all parts."""
    for (document, name), make in PARTS.items():
        path = ROOT / document
        path.write_text(with_part(path.read_text(), name, make()))


if __name__ == "__main__":
    main()

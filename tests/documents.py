"""Writes the parts of documents that the code determines: `python -m tests.documents`, also `make documents`.

A generated part stands between `<!-- NAME... -->` and `<!-- /NAME -->`. `tests/test_documents.py` compares.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.schema import TABLES

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


PARTS: dict[tuple[str, str], Callable[[], str]] = {
    ("pipeline/README.md", "layers"): layers,
    ("pipeline/publish/README.md", "tables"): tables,
}
"""(document, name of the part) -> what makes it."""


def with_part(text: str, name: str, content: str) -> str:
    """The document with the part replaced. Raises ValueError where it has no such part."""
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

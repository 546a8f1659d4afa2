"""Seeded damage to small files (bytes, values of JSON and TOML, cells of tables), and checks of readers."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

DEEP = "\x00deep\x00"  # stands for a value that is nested without end; json.dumps cannot write one
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    10**30,
    -(10**400),
    0.5,
    1e308,
    float("nan"),
    float("-inf"),
    "",
    "a",
    "../../evil",
    "/etc/passwd",
    "\x1b[31mred\x07\n",
    "\ud800",
    "\u202egnp",
    "x" * 100_000,
    [],
    {},
    [[]],
    {"a": 1},
    [1, "a", None],
    DEEP,
]
MIB = 2**20
_LONGEST_S = 10.0


def damaged_bytes(data: bytes, chance: random.Random) -> bytes:
    """The bytes with flipped bits, or with a part cut off, removed, inserted or overwritten."""
    kind, size = chance.randrange(7), len(data)
    at = chance.randrange(size + 1)
    end = min(at + chance.choice((1, 4, 64, size)), size)
    if kind <= 1:
        out = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            out[chance.randrange(size)] ^= 1 << chance.randrange(8)
        return bytes(out)
    if kind == 2:
        return data[:at]
    if kind == 3:
        return data[:at] + data[end:]
    if kind == 4:
        return data[:at] + data[at:end] + data[at:]
    if kind == 5:
        return data[:at] + chance.randbytes(chance.choice((1, 8, 1000))) + data[at:]
    return data[:at] + chance.choice((b"\xff", b"\x00", b"9")) * (end - at) + data[end:]


def damaged_json(data: bytes, chance: random.Random) -> bytes:
    """One to three values removed or replaced; the checksum is removed, because it would reveal the damage."""
    values = copy.deepcopy(json.loads(data))
    if isinstance(values, dict):
        values.pop("checksum", None)
    for _ in range(chance.choice((1, 1, 1, 3))):
        places = list(_places(values))
        if not places:
            break
        parent, key = chance.choice(places)
        if chance.random() < 0.15:
            del parent[key]
        elif chance.random() < 0.1 and isinstance(parent, dict):
            parent[chance.choice(("zzz", "", "\x1b[2J", "__class__"))] = copy.deepcopy(chance.choice(VALUES))
        else:
            other = _like(parent[key], chance) if chance.random() < 0.3 else chance.choice(VALUES)
            parent[key] = copy.deepcopy(other)
    return _text(values).encode("utf-8", "surrogatepass")


def damaged_lines(data: bytes, chance: random.Random) -> bytes:
    """JSON lines or cells of a text: one line or cell is removed, doubled or replaced."""
    lines = data.decode().splitlines()
    at = chance.randrange(len(lines))
    kind = chance.randrange(4)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[chance.randrange(len(lines))])
    elif lines[at].startswith("{"):
        lines[at] = damaged_json(lines[at].encode(), chance).decode("utf-8", "surrogatepass")
    else:
        separator = "=" if "=" in lines[at] else ","
        cells = lines[at].split(separator)
        value = chance.choice(VALUES)
        said = value if isinstance(value, str) else _text(value)
        quoted = chance.random() < 0.5
        cells[chance.randrange(len(cells))] = _text(said) if quoted else said.replace(DEEP, "[" * 5000)
        lines[at] = separator.join(cells)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def damaged_table(table: pa.Table, chance: random.Random) -> pa.Table:
    """A column is removed, doubled, of another type, or has another value in a row; or rows are removed or doubled."""
    kind, at = chance.randrange(8), chance.randrange(table.num_columns)
    field, column = table.schema.field(at), table.column(at)
    if kind == 0:
        return table.remove_column(at)
    if kind == 1:
        return table.append_column(field, column)
    if kind == 2:
        wrong = chance.choice((pa.string(), pa.float16(), pa.list_(pa.int8()), pa.bool_(), pa.int64(), pa.null()))
        return table.set_column(at, pa.field(field.name, wrong), pa.nulls(table.num_rows, wrong))
    if kind == 3 and table.num_rows:
        start = chance.randrange(table.num_rows)
        return chance.choice((table.slice(start), pa.concat_tables([table, table.slice(start, 1)]), table.slice(0, 0)))
    values = column.to_pylist()
    if not values:
        return table
    wanted = chance.choice(VALUES + [float("nan"), -(2**31), 2**31 - 1, 255, 1e-300, b"\x89PNG\r\n\x1a\n" + bytes(40)])
    row = chance.randrange(len(values))
    values[row] = wanted
    with contextlib.suppress(pa.ArrowException, TypeError, ValueError, OverflowError):
        changed = pa.array(values, field.type)
        return table.set_column(at, pa.field(field.name, field.type), changed)
    return table.set_column(at, pa.field(field.name, field.type), pa.nulls(len(values), field.type))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container inside a value with each of its keys, the outermost first."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _like(value: Any, chance: random.Random) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return chance.choice(
            (-value, value + 1, value * 10**6, value - 1, value / 3 if isinstance(value, float) else 7)
        )
    if isinstance(value, str):
        return chance.choice((value[:-1], value + "\x1b]0;", value.upper(), value * 2, "../" + value))
    if isinstance(value, list):
        return chance.choice((value[:-1], value * 2, value[::-1]))
    return dict(list(value.items())[:-1])


def _text(value: Any) -> str:
    depth = 100_000
    return json.dumps(value).replace(json.dumps(DEEP), "[" * depth + "]" * depth)


class Watch:
    """While it is on, records each path outside a root that this process writes, renames, makes or removes."""

    _on: Watch | None = None
    _installed = False

    def __init__(self, root: Path) -> None:
        self.root, self.outside = str(root), list[str]()

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Records the changes made inside the context."""
        if not Watch._installed:  # an audit hook cannot be removed again
            sys.addaudithook(_audit)
            Watch._installed = True
        Watch._on = self
        try:
            yield
        finally:
            Watch._on = None

    def note(self, path: Any) -> None:
        """Record a path that is written to."""
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if text and not os.path.abspath(text).startswith(self.root) and text != os.devnull:
            self.outside.append(text)


_WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    watch = Watch._on
    if watch is None:
        return
    if event == "open":
        path, mode, flags = arguments
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (
            isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        ):
            watch.note(path)
    elif event in _WRITES:
        for path in arguments[:2]:
            watch.note(path)


def survives(
    read: Callable[[], object], root: Path, allowed: tuple[type[BaseException], ...], named: str
) -> str | None:
    """Read the damaged file. Returns None if the reader reacted correctly, else what went wrong.

    allowed: the errors that the reader may raise; their text must be one line and contain `named`.
    """
    watch, memory = Watch(root), _peak()
    fault, spent = _once(read, watch, allowed, named)
    if spent > _LONGEST_S:  # a second try: the machine may have been busy the first time
        fault, spent = _once(read, watch, allowed, named)
    if watch.outside:
        fault = f"wrote outside: {watch.outside[:3]}"
    if spent > _LONGEST_S:
        fault = f"took {spent:.0f} s"
    if _peak() - memory > 500 * MIB:
        fault = f"took {(_peak() - memory) // MIB} MiB"
    return fault


def _once(
    read: Callable[[], object], watch: Watch, allowed: tuple[type[BaseException], ...], named: str
) -> tuple[str | None, float]:
    begun = time.monotonic()
    fault = None
    try:
        with watch.on():
            read()
    except allowed as error:
        if named not in str(error):
            fault = f"does not name {named}: {str(error)[:300]!r}"
    except Exception as error:
        fault = f"{type(error).__name__}: {str(error)[:300]}"
    return fault, time.monotonic() - begun


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

"""The text of --help: usage, what the command does, then its settings in groups."""

from __future__ import annotations

import shutil
import textwrap
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING

from pipeline.common.settings import GROUPS, Setting

_NARROWEST, _WIDEST = 60, 110
_COLUMN = 28  # column at which the text of an option begins
_WORDS = {str: "TEXT", int: "INT", float: "FLOAT", bool: "{True,False}"}


def help_text(prog: str, about: str, shown: Sequence[Setting], hidden: int, elsewhere: str) -> str:
    """What --help prints. about: what the command does; hidden: number of settings that are not shown; elsewhere: where
    the user finds those."""
    width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns))
    free = [one for one in shown if one.positional]
    values = "".join(f" {name}" if one.default is MISSING else f" [{name}]" for one in free if (name := _upper(one)))
    needed = [f" --{one.name} {metavar(one.kind)}" for one in shown if one.default is MISSING and not one.positional]
    usage = f"usage: python -m {prog}{values}{''.join(needed)} [OPTIONS]"
    lines = [*textwrap.wrap(usage, width, subsequent_indent="    ", break_on_hyphens=False), ""]
    for paragraph in textwrap.dedent(about).strip().split("\n\n"):
        lines += [*textwrap.wrap(" ".join(paragraph.split()), width), ""]
    for title, settings in _parts(shown):
        lines.append(f"{title}:")
        for one in settings:
            lines += _option(_spelt(one), _said(one), width)
        lines.append("")
    lines.append("more:")
    lines += _option(
        "--settings FILE", "Read settings from this TOML file; options of the command line override it.", width
    )
    lines += _option("-h, --help", "Show this text.", width)
    if hidden:
        lines += [
            "",
            *textwrap.wrap(
                f"{hidden} settings for experts are not shown; see {elsewhere}. Set them in a TOML file, or on the "
                "command line by their full names.",
                width,
            ),
        ]
    return "\n".join(lines)


def metavar(kind: object) -> str:
    """The type of a setting as --help writes it."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "{" + ",".join(map(str, parts)) + "}"
    if origin in (typing.Union, types.UnionType):
        return "|".join(metavar(part) for part in parts if part is not type(None))
    if origin is tuple:
        return f"{metavar(parts[0])} ..." if parts[-1] is ... else " ".join(metavar(part) for part in parts)
    return _WORDS.get(kind, "") if isinstance(kind, type) else ""


def _parts(shown: Sequence[Setting]) -> list[tuple[str, list[Setting]]]:
    """Titles and their settings: first those with a group, then one part for each section of the others."""
    parts: dict[str, list[Setting]] = {title: [] for title in ("options", *GROUPS)}
    for one in shown:
        title = one.group or (one.name.rpartition(".")[0] or "options")
        parts.setdefault(title, []).append(one)
    return [(title, settings) for title, settings in parts.items() if settings]


def _upper(one: Setting) -> str:
    return one.path[-1].upper()


def _spelt(one: Setting) -> str:
    before, dot, last = one.name.rpartition(".")
    if one.kind is bool:
        return f"--{before}{dot}[no-]{last}" if one.default else f"--{one.name}"
    bare = f"{_upper(one)}, " if one.positional else ""
    return f"{bare}--{one.name} {metavar(one.kind)}"


def _said(one: Setting) -> str:
    """The text of the setting, and its default unless that is None, off or empty."""
    if one.default is MISSING:
        return f"{one.text} Required."
    if one.default is None or one.default is False or one.default == ():
        return one.text
    value = " ".join(map(str, one.default)) if isinstance(one.default, tuple) else one.default
    value = "on" if value is True else value
    return f"{one.text} Default: {value}."


def _option(name: str, text: str, width: int) -> list[str]:
    indent = " " * _COLUMN
    wrapped = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    head = f"  {name}"
    if len(head) < _COLUMN - 1 and wrapped:
        return [head.ljust(_COLUMN) + wrapped[0][_COLUMN:], *wrapped[1:]]
    return [head, *wrapped]

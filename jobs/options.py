"""Command lines made from settings dataclasses: one option for each field, --settings FILE, and --help in groups.

tyro converts words to values. This module adds what tyro lacks: settings from a TOML file for every command,
positional values, --help without the settings of experts, and a one-line message for a misspelt option.
"""

from __future__ import annotations

import contextlib
import io
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

import tyro

from jobs.help_text import help_text
from pipeline.common.settings import Setting, nearest_name, settings_of
from pipeline.common.visible_text import show, visible
from pipeline.config import RunConfig
from pipeline.settings_file import read_settings, read_values

T = TypeVar("T")

_USAGE_ERROR = 2


def settings_from(
    kind: type[T],
    arguments: list[str] | None,
    *,
    prog: str,
    default: T | None = None,
    about: str = "",
    sections: Sequence[str] = (),
    elsewhere: str = "pipeline/settings.md",
) -> T:
    """Make a settings dataclass from the command line; `--settings FILE.toml` gives the defaults.

    Args:
        kind: the dataclass.
        arguments: words of the command line; None: those of this process.
        prog: name of the command, for messages.
        default: values of settings that neither the command line nor the file gives; None: the defaults of the class.
        about: what the command does, for --help; empty: the docstring of the class.
        sections: sections for experts that --help shows nevertheless.
        elsewhere: where the user finds the settings that --help does not show.

    --help exits with 0, a usage error with 2. Raises ValueError for invalid values.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    settings = settings_of(kind)
    if "-h" in words or "--help" in words:
        shown = [one for one in settings if not one.expert or one.path[0] in sections]
        show(help_text(prog, about or kind.__doc__ or "", shown, len(settings) - len(shown), elsewhere))
        raise SystemExit(0)
    try:
        words = list(_named(words, settings, prog))
    except _UsageError as error:
        show(f"error: {visible(str(error))} (--help lists the options)", sys.stderr)
        raise SystemExit(_USAGE_ERROR) from None
    file, words = _settings_file(words)
    start: Any = default  # or tyro's MISSING
    if file is not None:
        start = read_settings(file) if kind is RunConfig else _start(kind, file, default)
    extra = {} if start is None else {"default": start}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=f"python -m {prog}", args=words, **extra)
    except SystemExit as leaving:
        if isinstance(leaving.__context__, ValueError):  # raised by the check of the settings; tyro draws a box for it
            raise ValueError(str(leaving.__context__)) from None
        sys.stderr.write(visible(said.getvalue(), keep="\n"))
        raise


def _start(kind: type[T], file: str, default: T | None) -> Any:  # a T some of whose fields are MISSING
    """The defaults where there is a settings file. They are not checked: required settings may still be MISSING."""
    blank = {one.name: _blank(one) for one in fields(kind)} if default is None else vars(default)  # type: ignore[arg-type]
    start: Any = object.__new__(kind)  # as above
    start.__dict__.update(blank)
    start.__dict__.update(read_values(file, kind, start))
    return start


def _blank(declared: Field[object]) -> object:
    if declared.default is not MISSING:
        return declared.default
    return tyro.MISSING if declared.default_factory is MISSING else declared.default_factory()


class _UsageError(ValueError):
    """The words of a command line are not valid."""


def _named(words: Sequence[str], settings: Sequence[Setting], prog: str) -> Iterator[str]:
    """The words, with the name of its option before every positional value. Raises _UsageError."""
    takes: dict[str, int | None] = {"settings": 1}  # option -> number of its values; None: all up to the next option
    for one in settings:
        takes |= dict.fromkeys(_spellings(one), _words_of(one.kind))
    with_name = {_name_of(word) for word in words if word.startswith("--")}
    free = [one for one in settings if one.positional and one.name not in with_name]
    at = 0
    while at < len(words):
        word, at = words[at], at + 1
        if not word.startswith("--"):
            if not free:
                named = [f"--{one.name}" for one in settings if one.positional]
                why = f"{' and '.join(named)} {'have' if len(named) > 1 else 'has'} a value already" if named else ""
                raise _UsageError(f"{prog}: {word!r} belongs to no option{'; ' if why else ''}{why}")
            yield from (f"--{free.pop(0).name}", word)
            continue
        name = _name_of(word)
        if name not in takes:
            raise _UsageError(f"{prog} has no option --{name}; did you mean --{nearest_name(name, takes)}?")
        yield word
        count = 0 if "=" in word else takes[name]
        end = at if count is None else min(at + count, len(words))
        while count is None and end < len(words) and not words[end].startswith("--"):
            end += 1
        yield from words[at:end]
        at = end


def _name_of(word: str) -> str:
    return word[2:].partition("=")[0].replace("_", "-")


def _spellings(setting: Setting) -> list[str]:
    before, dot, last = setting.name.rpartition(".")
    return [setting.name, f"{before}{dot}no-{last}"] if setting.kind is bool else [setting.name]


def _words_of(kind: object) -> int | None:
    """How many words a value of this type takes; None for any number."""
    if kind is bool:
        return 0
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return max((_words_of(one) or 1 for one in typing.get_args(kind)), default=1)
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        return None if parts[-1] is ... else sum(_words_of(part) or 1 for part in parts)
    return 1


def _settings_file(words: list[str]) -> tuple[str | None, list[str]]:
    """The file of `--settings FILE` or `--settings=FILE`, and the other words."""
    for at, word in enumerate(words):
        name, joined, file = word.partition("=")
        if name != "--settings":
            continue
        after = at + 1 if joined else at + 2
        if not joined:
            file = words[at + 1] if at + 1 < len(words) else ""
        if not file:
            raise ValueError("--settings needs a TOML file")
        return file, words[:at] + words[after:]
    return None, words

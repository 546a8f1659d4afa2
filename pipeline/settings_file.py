"""Reads settings from a TOML file or a stored result, and checks them against the dataclasses that declare them."""

from __future__ import annotations

import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TypeVar

from pipeline import storage
from pipeline.common.settings import LONGEST_NAME, former_settings, nearest_name, settings_of
from pipeline.config import RunConfig

T = TypeVar("T")

MAX_BYTES = 1 << 20
"""Bytes; a larger file cannot be a settings file."""


def settings_from_dict(values: dict[str, object]) -> RunConfig:
    """A RunConfig from the values of `asdict`, which are stored with a result.

    Raises:
        ValueError: unknown keys, values of a wrong type, or invalid values.
    """
    return _filled(RunConfig(), values, "stored settings")


def read_settings(path: str | Path) -> RunConfig:
    """A RunConfig from a TOML file; sections such as [loop], [backend] and [publish] hold the settings of those names.

    A key is written with "_" or, as on the command line, with "-".

    Raises:
        ValueError: a file that cannot be read or is not UTF-8, an unknown key (the message has the nearest known one),
            a value of a wrong type, or an invalid value.
    """
    values, where = _read(path)
    return _filled(RunConfig(), values, where)


def read_values(path: str | Path, kind: type, start: object) -> dict[str, object]:
    """The values in a TOML file for a settings dataclass with required fields; sections are their dataclasses.

    start: gives the values of sections that the file does not set. Raises what read_settings raises.
    """
    values, where = _read(path)
    return _changed(start, kind, values, where, kind)


def _read(path: str | Path) -> tuple[dict[str, object], str]:
    """The values of a TOML file, and its name for errors."""
    place = storage.absolute(str(path))
    try:
        with open(place, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"expected at most {MAX_BYTES} bytes")
        text = data.decode("utf-8-sig")  # some editors write a byte-order mark
        values = tomllib.loads(text.replace("\r\n", "\n"))
    except UnicodeDecodeError:
        raise ValueError(f"settings file {place}: expected UTF-8; save it in that encoding") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"settings file {place}: {reason}") from None
    return values, f"settings file {place}"


def _filled(default: T, values: Mapping[str, object], where: str, whole: type | None = None) -> T:
    """`default`, a settings dataclass, with these values instead of its own. whole: the dataclass that contains it."""
    changed = _changed(default, type(default), values, where, whole or type(default))
    try:
        return replace(default, **changed)  # type: ignore[type-var]
    except ValueError as error:  # from the settings' own check, which does not know the file
        raise ValueError(f"{where}: {error}") from None


def _changed(default: object, kind: type, values: Mapping[str, object], where: str, whole: type) -> dict[str, object]:
    """The values that differ from those of `default`, checked; sections are their dataclasses."""
    hints = typing.get_type_hints(kind)
    changed: dict[str, object] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name in former_settings(kind):
            constant = getattr(kind, name)
            if value != constant:
                raise ValueError(
                    f"{where}: {name} cannot be set any more, it is always {constant}; got {_shown(value)}"
                )
            continue
        if name not in {f.name for f in fields(kind)}:
            raise ValueError(
                f"{where}: unknown key {key[:LONGEST_NAME]!r}; did you mean {_nearest(name, kind, whole)}?"
            )
        if name in changed:
            raise ValueError(f"{where}: {name!r} is given twice")
        current = getattr(default, name)
        if is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: {name} is a section, [{name}], got {name} = {_shown(value)}")
            changed[name] = _filled(current, value, f"{where} [{name}]", whole)
            continue
        try:
            changed[name] = _checked(hints[name], value)
        except TypeError as error:
            raise ValueError(f"{where}: {name} should be {error}, got {_shown(value)}") from None
    return changed


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int of more digits than Python writes out
        text = f"a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _nearest(name: str, section: type, whole: type) -> str:
    """The key most like `name`: one of the same section if it is near, else one of any section, with that section."""
    own = difflib.get_close_matches(name[:LONGEST_NAME], [declared.name for declared in fields(section)], 1)
    if own:
        return repr(own[0])
    keys = {setting.path[-1]: setting.path for setting in settings_of(whole)}
    path = keys[nearest_name(name, keys)]
    return repr(path[-1]) + (f" in section [{'.'.join(path[:-1])}]" if len(path) > 1 else "")


def _checked(hint: object, value: object) -> object:
    """The value in the type that its field declares. Raises TypeError; its message is the expected type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if any(value == one and type(value) is type(one) for one in arguments):
            return value
        raise TypeError("one of " + ", ".join(repr(one) for one in arguments))
    if origin in (typing.Union, types.UnionType):
        expected = []
        for one in arguments:
            try:
                return _checked(one, value)
            except TypeError as error:
                expected.append(str(error))
        raise TypeError(" or ".join(text for text in expected if text != "nothing"))
    if hint is type(None):
        if value is None:
            return None
        raise TypeError("nothing")
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or not (arguments[-1] is ... or len(value) == len(arguments)):
            raise TypeError("a list" if arguments[-1] is ... else f"a list of {len(arguments)} values")
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        return tuple(_checked(one, item) for one, item in zip(kinds, value, strict=True))
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise TypeError("a number that is not so large") from None
    if hint is object or (
        isinstance(hint, type) and isinstance(value, hint) and isinstance(value, bool) == (hint is bool)
    ):
        return value
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    raise TypeError(words.get(hint, str(hint)) if isinstance(hint, type) else str(hint))

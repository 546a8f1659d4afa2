"""Settings out of a TOML file, or as stored with a result, checked against the dataclasses that declare them."""

from __future__ import annotations

import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.config import RunConfig

MAX_BYTES = 1 << 20
"""A larger file is no settings file."""


def settings_from_dict(values: dict[str, Any]) -> RunConfig:
    """A RunConfig from what `asdict` gave, as it is stored with a result.

    Raises:
        ValueError: keys that do not exist, values of another type or that do not fit.
    """
    return _filled(RunConfig(), values, "stored settings")


def read_settings(path: str | Path) -> RunConfig:
    """A RunConfig from a TOML file; sections such as [loop], [backend] and [publish] hold the settings of those names.

    A key is written with "_" or, as on the command line, with "-".

    Raises:
        ValueError: a file that cannot be read or is not UTF-8, a key that does not exist (with the nearest one that
            does), a value of another type or that does not fit.
    """
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
    return _filled(RunConfig(), values, f"settings file {place}")


def _filled(default: Any, values: Mapping[str, Any], where: str) -> Any:
    """`default`, a settings dataclass, with these values in place of its own."""
    hints = typing.get_type_hints(type(default))
    changed: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in {f.name for f in fields(default)}:
            near = difflib.get_close_matches(name, list(hints), 1)
            raise ValueError(f"{where}: unknown key {key!r}{f'; did you mean {near[0]!r}?' if near else ''}")
        if name in changed:
            raise ValueError(f"{where}: {name!r} is given twice")
        current = getattr(default, name)
        if is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: {name} is a section, [{name}], got {name} = {value!r}")
            changed[name] = _filled(current, value, f"{where} [{name}]")
            continue
        try:
            changed[name] = _checked(hints[name], value)
        except TypeError as error:
            raise ValueError(f"{where}: {name} should be {error}, got {value!r}") from None
    try:
        return replace(default, **changed)
    except ValueError as error:  # the settings' own check of values, which knows no file
        raise ValueError(f"{where}: {error}") from None


def _checked(hint: Any, value: Any) -> Any:
    """The value in the type that its field declares. Raises TypeError with what is expected, in words."""
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
        return float(value)
    if hint is Any or (
        isinstance(hint, type) and isinstance(value, hint) and isinstance(value, bool) == (hint is bool)
    ):
        return value
    raise TypeError(
        {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(hint, str(hint))
    )

"""How a setting is declared: its place in --help, and whether it is part of a result's identity, are said at its field.

    @dataclass(frozen=True)
    class StageConfig:
        window: int = setting(20, group="quality", identity=ALWAYS)
        "Frames of a window."

A field without `setting` is shown in --help, and is part of the identity unless it has its default. So a later version
can add a field, and older results stay valid. This module knows neither the command line nor any stage.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from difflib import SequenceMatcher
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

Group = Literal["input", "output", "what runs where", "quality", "many drives"]
"""The parts of --help, named by what a user looks for."""
GROUPS: tuple[Group, ...] = typing.get_args(Group)


@dataclass(frozen=True)
class Identity:
    """Whether a setting is part of a result's identity. said: the rule in words; applies: the rule as a function of the
    setting's value and its default."""

    said: str
    applies: Callable[[object, object], bool]


ALWAYS = Identity("always", lambda value, default: True)
NEVER = Identity("never", lambda value, default: False)
UNLESS_DEFAULT = Identity("unless it has its default", lambda value, default: bool(value != default))
WHEN_ON = Identity("when it is on", lambda value, default: bool(value))


def setting(
    default: T,
    *,
    group: Group | None = None,
    expert: bool = False,
    positional: bool = False,
    identity: Identity = UNLESS_DEFAULT,
) -> T:
    """A field of a settings dataclass, with its default.

    group: the part of --help that shows it. expert: --help leaves it out; a TOML file, its full name on the command
    line and the reference page have it. positional: it may be given without its name. identity: ALWAYS, NEVER,
    UNLESS_DEFAULT or another rule; NEVER at a section holds for all of its fields.
    """
    about = {"group": group, "expert": expert, "positional": positional, "identity": identity}
    made: object = field(default=default, metadata=about)
    return typing.cast(T, made)


POSITIONAL: Mapping[str, object] = {"positional": True}
"""For a field without a default that may be given without its name: `output: str = field(metadata=POSITIONAL)`."""


def identity_of(declared: Field[object]) -> Identity:
    """The identity rule with which a field was declared."""
    rule = declared.metadata.get("identity", UNLESS_DEFAULT)
    assert isinstance(rule, Identity)
    return rule


def former_settings(kind: type) -> tuple[str, ...]:
    """Names of former settings that are constants now. Older results and TOML files contain them."""
    names = getattr(kind, "FORMER_SETTINGS", ())
    return tuple(names)


def identity_values(config: DataclassInstance) -> dict[str, object]:
    """The settings of a frozen dataclass that are part of a result's identity, sections as dicts.

    Former settings that are constants now (FORMER_SETTINGS) are part of it, with the values that they had.
    """
    values: dict[str, object] = {name: getattr(config, name) for name in former_settings(type(config))}
    for declared in fields(config):
        value, rule = getattr(config, declared.name), identity_of(declared)
        if is_dataclass(value) and not isinstance(value, type):
            inner = {} if rule is NEVER else identity_values(value)
            if inner:
                values[declared.name] = inner
        elif rule.applies(value, _default_of(declared)):
            values[declared.name] = value
    return values


@dataclass(frozen=True)
class Setting:
    """One setting of a dataclass or of a section in it.

    path: field names from the outermost inwards; name: its option's name without the leading dashes; kind: its type;
    default: MISSING where it must be given; text: its docstring; section: the docstring of the dataclass around it.
    """

    path: tuple[str, ...]
    name: str
    kind: type
    default: object
    text: str
    section: str
    group: Group | None
    expert: bool
    positional: bool
    identity: Identity


def settings_of(kind: type) -> tuple[Setting, ...]:
    """All settings of a dataclass, including those of its sections, in the order of declaration."""
    return tuple(_settings(kind, (), (), None, False, None))


def _settings(
    kind: type,
    path: tuple[str, ...],
    prefix: tuple[str, ...],
    defaults: object,
    expert: bool,
    never: Identity | None,
) -> Iterator[Setting]:
    hints = typing.get_type_hints(kind, include_extras=True)
    docs = field_docs(kind)
    for declared in fields(kind):
        hint, about = hints[declared.name], declared.metadata
        default = _default_of(declared) if defaults is None else getattr(defaults, declared.name)
        hidden = expert or bool(about.get("expert", False))
        rule = never or identity_of(declared)
        bare = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        if is_dataclass(bare):
            # a section whose options have no prefix says so to tyro: Annotated[Kind, tyro.conf.arg(name="")]
            flat = any(getattr(one, "name", None) == "" for one in typing.get_args(hint)[1:])
            names = prefix if flat else (*prefix, declared.name)
            below = NEVER if rule is NEVER else None
            inner = typing.cast(type, bare)
            yield from _settings(inner, (*path, declared.name), names, default, hidden, below)
            continue
        yield Setting(
            (*path, declared.name),
            ".".join((*prefix, declared.name)).replace("_", "-"),
            bare,
            default,
            docs.get(declared.name, ""),
            inspect.getdoc(kind) or "",
            about.get("group"),
            hidden,
            bool(about.get("positional", False)),
            rule,
        )


def _default_of(declared: Field[object]) -> object:
    if declared.default is not MISSING:
        return declared.default
    return MISSING if declared.default_factory is MISSING else declared.default_factory()


LONGEST_NAME = 80  # characters that are compared: the time grows with the square of the length


def nearest_name(name: str, names: Iterable[str]) -> str:
    """The name most like a misspelt one; of a long text only the beginning is compared."""
    name = name[:LONGEST_NAME]

    def likeness(other: str) -> float:
        return max(SequenceMatcher(None, name, part).ratio() for part in (other, other.rpartition(".")[2]))

    return max(names, key=likeness)


@cache
def field_docs(kind: type) -> dict[str, str]:
    """The docstring below each field of a class and of the dataclasses that it extends, as one line of text."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if is_dataclass(base):
            docs |= _own_docs(base)
    return docs


def _own_docs(kind: type) -> dict[str, str]:
    (declared,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(declared, ast.ClassDef)
    docs: dict[str, str] = {}
    for before, after in zip(declared.body, declared.body[1:], strict=False):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            docs[before.target.id] = " ".join(after.value.value.split())
    return docs

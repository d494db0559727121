"""Options of a command, read from its dataclass: names, what they take, and how help shows it."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from effssl.own import FORM, OwnName, is_own

_WANTED = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
}


@dataclasses.dataclass(frozen=True)
class Option:
    """A flag or a positional argument of a command.

    Attributes:
        field: Name of the field, such as ``batch_size``.
        name: Name of the flag without its hyphens, such as ``batch-size``.
        hint: Type of the value.
        metavar: What stands for the value in help and in messages.
        aliases: Other names of the flag.
        positional: Whether the value is given without a flag.
        required: Whether there is no default.
    """

    field: str
    name: str
    hint: Any
    metavar: str
    aliases: tuple[str, ...]
    positional: bool
    required: bool

    @property
    def label(self) -> str:
        """Name as it is typed: that of the flag, or what stands for a positional argument."""
        return self.metavar if self.positional else f"--{self.name}"

    @property
    def most_words(self) -> float:
        """Largest number of words that the flag takes; 0 for a switch."""
        return max(map(_words, alternatives(self.hint)))

    def takes(self, words: Sequence[str]) -> bool:
        """Return whether the words are a value."""
        return any(_reads(kind, words) for kind in alternatives(self.hint))

    def wanted(self) -> str:
        """Return in words what the values are."""
        *words, last = map(_in_words, alternatives(self.hint))
        return f"{', '.join(words)} or {last}" if words else last


def options_of(command: type) -> list[Option]:
    """Return the options of a command, those of a configuration within it included."""
    options = []
    hints = typing.get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        hint, *marks = _unwrapped(hints[field.name])
        given = next((mark for mark in marks if hasattr(mark, "metavar")), None)
        if dataclasses.is_dataclass(hint):
            begin = given.name if given and given.name is not None else f"{field.name}."
            options += [
                dataclasses.replace(inner, name=begin + inner.name, field=begin + inner.field)
                for inner in options_of(hint)
            ]
            continue
        # a switch takes no value
        kinds = () if hint is bool else alternatives(hint)
        default = "|".join(filter(None, map(_metavar, kinds)))
        options.append(
            Option(
                field=field.name,
                name=(given and given.name) or field.name.replace("_", "-"),
                hint=hint,
                metavar=(given and given.metavar) or default,
                aliases=tuple(a.lstrip("-") for a in (given and given.aliases) or ()),
                positional=tyro.conf.Positional in marks,
                required=field.default is dataclasses.MISSING,
            )
        )
    return options


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the type itself; None comes last."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(sorted(kinds, key=lambda kind: kind is types.NoneType))


def registry() -> ConstructorRegistry:
    """Return how tyro reads and shows what may be None, and what takes any number of words."""
    made = ConstructorRegistry()

    @made.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        kinds = [kind for kind in alternatives(info.type) if kind is not types.NoneType]
        if len(kinds) != 1 or _words(kinds[0]) not in (1, math.inf):
            return None
        if kinds[0] is info.type and _words(kinds[0]) == 1:
            return None  # tyro's own is as good
        return PrimitiveConstructorSpec(
            nargs=1 if _words(kinds[0]) == 1 else "*",
            metavar=_metavar(kinds[0]),
            instance_from_str=lambda words: _value(kinds[0], words),
            is_instance=lambda value: True,
            str_from_instance=_as_words,
        )

    return made


def _unwrapped(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Annotated else (hint,)


def _words(kind: Any) -> float:
    if kind is bool:
        return 0
    if get_origin(kind) is not tuple:
        return 1
    return math.inf if get_args(kind)[-1] is ... else len(get_args(kind))


def _metavar(kind: Any) -> str:
    if kind is OwnName:
        return "MODULE:NAME"
    if get_origin(kind) is Literal:
        return f"{{{','.join(get_args(kind))}}}"
    if get_origin(kind) is tuple:
        inner = [_metavar(item) if item is not ... else "..." for item in get_args(kind)]
        return " ".join(inner)
    names = {bool: "True|False", int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}
    return names.get(kind, "")


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if get_origin(kind) is tuple:
        items = get_args(kind)
        if items[-1] is ...:
            what = _in_words(items[0])
            return what if what.startswith("one ") else f"{what.removeprefix('a ')}s"
        return "two numbers"
    return FORM if kind is OwnName else _WANTED.get(kind, "None")


def _reads(kind: Any, words: Sequence[str]) -> bool:
    if get_origin(kind) is tuple:
        items = get_args(kind)
        if items[-1] is ...:
            items = items[:1] * len(words)
        return len(items) == len(words) and all(
            _reads(item, [word]) for item, word in zip(items, words, strict=True)
        )
    if len(words) != 1:
        return False
    if kind is types.NoneType:
        return words[0] == "None"
    if kind is OwnName:
        return is_own(words[0])
    if get_origin(kind) is Literal:
        return words[0] in get_args(kind)
    if kind is bool:
        return words[0] in ("True", "False")
    try:
        kind(words[0])
    except ValueError:
        return False
    return True


def _value(kind: Any, words: list[str]) -> Any:
    if words == ["None"]:
        return None
    if get_origin(kind) is tuple:
        return tuple(_value(get_args(kind)[0], [word]) for word in words)
    return words[0] if get_origin(kind) is Literal else kind(words[0])


def _as_words(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, tuple) else [str(value)]

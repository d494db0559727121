"""Fields of a configuration: bounds, and what a resume and a published record make of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from tyro.conf import arg

from effssl.hints import option
from effssl.own import FORM, OwnName, is_own

T = TypeVar("T")

OnResume = Literal["keep", "warn", "free"]
Published = Literal["yes", "no", "if public"]

# texts, by what the help of the command line shows in place of one
Name = Annotated[str, arg(metavar="NAME")]
GivenName = Annotated[str | None, arg(metavar="NAME")]
Split = Annotated[str, arg(metavar="SPLIT")]
Dataset = Annotated[str, arg(metavar="DATASET")]
Column = Annotated[str | None, arg(metavar="COLUMN")]
Folder = Annotated[str | None, arg(metavar="FOLDER")]
Color = Annotated[str, arg(metavar="COLOR")]
GivenColor = Annotated[str | None, arg(metavar="COLOR")]

_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "None",
}


def setting(
    default: T,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    why: str = "",
    on_resume: OnResume = "keep",
    published: Published = "yes",
    saved: bool = True,
    from_file: bool = True,
    may_differ: bool = False,
) -> T:
    """Declare a field of a configuration.

    Args:
        default: Default value.
        least: Smallest allowed value. Numbers must be finite, and None is exempt.
        most: Largest allowed value, beside a smallest one.
        above: Bound that the value must exceed.
        why: Reason for the bound, for the error.
        on_resume: What happens if a resumed run has another value: ``keep`` refuses it, ``warn``
            allows it with a warning (it changes what is computed), ``free`` allows it.
        published: Whether the record of a model folder tells the value: ``yes``, ``no`` (it is a
            path of this machine), or ``if public`` (a data set that others can load).
        saved: False for an option of a single launch, reset in the saved configuration.
        from_file: Whether ``--config`` takes it from the file of another run.
        may_differ: Whether the processes of a run may have different values, since it concerns the
            machine that a process runs on, or counts in the main process only.
    """
    metadata = {
        "least": least,
        "most": most,
        "above": above,
        "why": why,
        "on_resume": on_resume,
        "published": published,
        "saved": saved,
        "from_file": from_file,
        "may_differ": may_differ,
    }
    return dataclasses.field(default=default, metadata=metadata)


def names_where(config: Any, key: str, value: Any) -> set[str]:
    """Return the names of the fields declared with a value, such as ``on_resume="free"``."""
    return {f.name for f in dataclasses.fields(config) if f.metadata[key] == value}


def check_field(field: dataclasses.Field, hint: Any, value: Any) -> None:
    """Check the type and the bounds of a value.

    Args:
        field: Field made by `setting`.
        hint: Resolved type of the field.
        value: Value to check.

    Raises:
        ValueError: If the value is not allowed; the message says what is.
    """
    allowed, what = _has_type(hint, value)
    if allowed and isinstance(value, int | float) and not isinstance(value, bool):
        least, above = field.metadata["least"], field.metadata["above"]
        if least is not None:
            allowed, what = least <= value < math.inf, f"{least} or more"
        if (most := field.metadata["most"]) is not None:
            allowed, what = allowed and value <= most, f"{least} to {most}"
        if above is not None:
            allowed, what = above < value < math.inf, f"above {above}"
        what += field.metadata["why"] and f": {field.metadata['why']}"
    if not allowed:
        raise ValueError(f"{option(field.name)} must be {what}; got {value!r}")


def _has_type(hint: Any, value: Any) -> tuple[bool, str]:
    """Return whether a value has a type, and the values of the type in words."""
    kinds = (hint,) if get_origin(hint) in (Literal, tuple) else get_args(hint) or (hint,)
    pairs = [kind for kind in kinds if get_origin(kind) is tuple]
    if pairs and (isinstance(value, tuple) or len(kinds) == 1):
        given = value if isinstance(value, tuple) else ()
        numbers = [n for n in given if isinstance(n, int | float) and not isinstance(n, bool)]
        finite = all(map(math.isfinite, numbers))
        return len(given) == len(numbers) == len(get_args(pairs[0])) and finite, "two numbers"
    choices = [choice for kind in kinds if kind not in pairs for choice in get_args(kind)]
    if choices:
        optional = type(None) in kinds
        allowed = value in choices or (optional and value is None)
        allowed = allowed or (OwnName in kinds and is_own(value))
        numbers = "two numbers, or " if pairs else ""
        ending = ", or None" if optional else f", or {FORM}" if OwnName in kinds else ""
        return allowed, f"{numbers}one of {', '.join(choices)}{ending}"
    allowed = isinstance(value, (*kinds, int) if float in kinds else kinds)
    if isinstance(value, bool):  # bool is a subclass of int
        allowed = bool in kinds
    return allowed, " or ".join(_KINDS[kind] for kind in kinds)

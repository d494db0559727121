"""The label column of a data set, and labels of any kind as classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from effssl.hints import option
from effssl.shown import shown

if TYPE_CHECKING:
    from datasets import Dataset, Features

UNLABELED = -1
_NAMES = ("label", "labels", "class", "target", "fine_label", "cls")


def find_label_column(features: Features, name: str | None) -> str | None:
    """Return the column named, or else one found by its type, then by a usual name.

    Raises:
        ValueError: If the column named does not exist.
    """
    from datasets import ClassLabel

    if name is not None:
        if name not in features:
            raise ValueError(
                f"{option('label_column')} {name!r} is not among the columns {list(features)}"
            )
        return name
    classes = [column for column, kind in features.items() if isinstance(kind, ClassLabel)]
    named = [column for column in _NAMES if column in features]
    return next(iter(classes if len(classes) == 1 else named), None)


def class_names(rows: Dataset, column: str) -> tuple[str, ...] | None:
    """Return the names of the classes of a column, in the order of their numbers, or None.

    Text is sorted; if all of it is whole numbers, by their value.
    """
    from datasets import ClassLabel, Value

    kind = rows.features[column]
    if isinstance(kind, ClassLabel):
        return tuple(kind.names) if kind.names else None
    if kind not in (Value("string"), Value("large_string")):
        return None
    names = set(rows[column][:]) - {None}
    return tuple(sorted(names, key=int if all(map(_is_whole, names)) else None))


def number_classes(values: Iterable[object], names: Sequence[str] | None, column: str) -> list[int]:
    """Return the class of every value: a whole number from 0, or -1 for one without a label.

    Args:
        values: Names, whole numbers, or None; -1 and NaN are no labels either.
        names: All names, in the order of their numbers.
        column: Name of the column, for errors.

    Raises:
        ValueError: If a value is anything else.
    """
    number = {name: i for i, name in enumerate(names or ())}
    return [_class(value, number, column) for value in values]


def _class(value: object, number: dict[str, int], column: str) -> int:
    if value is None:
        return UNLABELED
    if isinstance(value, str) and value in number:
        return number[value]
    if isinstance(value, float):
        if math.isnan(value):
            return UNLABELED
        if value.is_integer():
            value = int(value)
    if isinstance(value, int) and value >= UNLABELED:
        return value
    if isinstance(value, list):
        raise ValueError(
            f"label column {column!r} holds lists, several labels an image: k-NN, the linear probe "
            "and fine-tuning take one class an image; pretraining and the protocol spectrum need "
            "no labels"
        )
    raise ValueError(
        f"label column {column!r} holds {shown(value)}; classes are names or whole numbers from "
        "0, and -1 or nothing stands for no class"
    )


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal()

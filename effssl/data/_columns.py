"""The image and label columns of a data set, and the types in which cells are read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

_LABEL_NAMES = ("label", "labels", "class", "target", "fine_label", "cls")


def find_image_column(features: Features, name: str | None) -> str:
    """Return the column named, or else the only one of the likeliest kind present.

    Raises:
        ValueError: If the column named holds no images, or without a name there is not exactly one.
    """
    from datasets import Array2D, Array3D, Image, Value

    files, arrays, bytes_, lists = [], [], [], []
    for column, kind in features.items():
        if isinstance(kind, Image):
            files.append(column)
        elif isinstance(kind, Array2D | Array3D):
            arrays.append(column)
        elif kind in (Value("binary"), Value("large_binary")) or (
            isinstance(kind, dict) and kind.keys() == {"bytes", "path"}
        ):
            bytes_.append(column)
        elif _array_dtype(kind):
            lists.append(column)
    if name is not None:
        images = files + arrays + bytes_ + lists
        if name not in images:
            raise ValueError(f"image_column {name!r} is not among the image columns {images}")
        return name
    images = files or arrays or bytes_
    if len(images) != 1:
        raise ValueError(
            f"the data set has {len(images)} image columns {images} among {list(features)}: "
            "name the one to use with image_column"
        )
    return images[0]


def find_label_column(features: Features, name: str | None) -> str | None:
    """Return the column named, or else one found by its type, then by a usual name.

    Raises:
        ValueError: If the column named does not exist.
    """
    from datasets import ClassLabel

    if name is not None:
        if name not in features:
            raise ValueError(f"label_column {name!r} is not among the columns {list(features)}")
        return name
    classes = [column for column, kind in features.items() if isinstance(kind, ClassLabel)]
    named = [column for column in _LABEL_NAMES if column in features]
    return next(iter(classes if len(classes) == 1 else named), None)


def undecoded(
    rows: Dataset | IterableDataset, column: str, streaming: bool
) -> Dataset | IterableDataset:
    """Give image files as they are, and arrays in the type in which they are stored.

    ``datasets`` would make lists of arrays, in which uint16 cannot be told from other numbers.

    Raises:
        ValueError: If cells of an array column are empty.
    """
    from datasets import Array2D, Array3D, Image

    kind = rows.features[column]
    dtype = _array_dtype(kind)
    if dtype is None:
        return rows.cast_column(column, Image(decode=False))
    if streaming:  # streams have no formats with a dtype
        return rows.map(partial(_as_array, column=column, dtype=dtype), features=rows.features)
    empty = rows.data.column(column).null_count
    if empty and isinstance(kind, Array2D | Array3D):  # numpy would make them black images
        raise ValueError(f"{empty} cells of the column {column!r} are empty: filter them out first")
    return rows.with_format("numpy", columns=[column], output_all_columns=True, dtype=dtype)


def _as_array(row: dict, column: str, dtype: str) -> dict:
    # rows of unequal length, or an empty cell, make a broken image and not an error
    try:
        return {column: np.asarray(row[column], dtype)}
    except (TypeError, ValueError):
        return {column: None}


def _array_dtype(kind: object) -> str | None:
    """Return the type of the numbers in an array column, or None for any other column."""
    from datasets import Array2D, Array3D, LargeList, List, Value

    if isinstance(kind, Array2D | Array3D):
        return kind.dtype
    depth = 0
    while isinstance(kind, List | LargeList):
        kind, depth = kind.feature, depth + 1
    return kind.dtype if depth in (2, 3) and isinstance(kind, Value) else None

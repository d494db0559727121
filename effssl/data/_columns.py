"""The image column of a data set, and the types in which cells are read."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from effssl.data._folders import suffix_of
from effssl.data._paths import file_cell
from effssl.data._suffixes import image_suffixes, lacking_extra
from effssl.hints import option

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset


def find_image_column(features: Features, name: str | None) -> str:
    """Return the column named, or else the only one of the likeliest kind present.

    Raises:
        ValueError: If the column named holds no images, or without a name there is not exactly one.
    """
    files, arrays, contents, lists = _image_columns(features)
    if name is not None:
        images = files + arrays + contents + lists
        if name not in images:
            raise ValueError(
                f"{option('image_column')} {name!r} is not among the image columns {images}"
            )
        return name
    images = files or arrays or contents
    if len(images) != 1:
        raise ValueError(
            f"the data set has {len(images)} image columns {images} among {list(features)}: "
            f"name the one to use with {option('image_column')}"
        )
    return images[0]


def has_images(features: Features) -> bool:
    """Return whether there is a column of images by its type."""
    return any(_image_columns(features)[:3])


def _image_columns(features: Features) -> tuple[list[str], ...]:
    """Return the columns of image files, of arrays, of bytes, and of lists of numbers."""
    from datasets import Array2D, Array3D, Image, Value

    files, arrays, contents, lists = [], [], [], []
    for column, kind in features.items():
        if isinstance(kind, Image):
            files.append(column)
        elif isinstance(kind, Array2D | Array3D):
            arrays.append(column)
        elif kind in (Value("binary"), Value("large_binary")) or (
            isinstance(kind, dict) and kind.keys() == {"bytes", "path"}
        ):
            contents.append(column)
        elif _array_dtype(kind):
            lists.append(column)
    return files, arrays, contents, lists


def find_path_column(rows: Dataset | IterableDataset, name: str | None) -> str | None:
    """Return the only column of text whose first value is the path of an image, or None.

    Args:
        rows: Rows without an image column.
        name: Name of the column, if the user gave one.
    """
    from datasets import Value

    text = (Value("string"), Value("large_string"))
    columns = [column for column, kind in rows.features.items() if kind in text]
    if name is not None:
        return name if name in columns else None
    first = next(iter(rows.take(1)), {})
    suffixes = {column: suffix_of(os.path.basename(first.get(column) or "")) for column in columns}
    found = [c for c, s in suffixes.items() if s in image_suffixes() or lacking_extra(s)]
    return found[0] if len(found) == 1 else None


def images_at_paths(
    rows: Dataset | IterableDataset, column: str, root: str
) -> Dataset | IterableDataset:
    """Make an image column of a column of paths.

    Args:
        rows: Rows with the column.
        column: Column of paths, absolute or relative to ``root``.
        root: Absolute path of a folder.
    """
    import pyarrow
    from datasets import Dataset, DatasetInfo, Features, Image

    features = Features(rows.features | {column: Image(decode=False)})
    if not hasattr(rows, "data"):  # a stream
        convert = partial(_batch_at_paths, column=column, root=root)
        return rows.map(convert, batched=True, features=features)
    table = rows.with_format("arrow")[:]
    cells = pyarrow.array(
        _cells(table[column].to_pylist(), root), features.arrow_schema.field(column).type
    )
    table = table.set_column(table.column_names.index(column), column, cells)
    return Dataset(table.cast(features.arrow_schema), info=DatasetInfo(features=features))


def _batch_at_paths(rows: dict, column: str, root: str) -> dict:
    return {column: _cells(rows[column], root)}


def _cells(paths: list[str | None], root: str) -> list[dict | None]:
    return [
        None if path is None else {"bytes": None, "path": file_cell(os.path.join(root, path))}
        for path in paths
    ]


def cell_paths(rows: Dataset, column: str) -> list[str | None]:
    """Return the path in each cell of an image column; None where it has none.

    Content is not read.
    """
    import pyarrow
    import pyarrow.compute

    cells = rows.data.column(column)
    if not pyarrow.types.is_struct(cells.type):
        return [None] * len(rows)  # arrays, or bytes alone
    paths = pyarrow.compute.struct_field(cells, "path")
    if rows._indices is not None:  # not public; rows of the data set would copy the content
        paths = paths.take(rows._indices.column(0))
    return paths.to_pylist()


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

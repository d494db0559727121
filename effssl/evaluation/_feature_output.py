"""What stands beside features in a file, and the three kinds of output."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from effssl.data._columns import cell_paths
from effssl.data._paths import is_own_url, open_cell
from effssl.data.sources import Source
from effssl.foreign import check_type, open_regular, parse_json

logger = logging.getLogger(__name__)

_MOST_HEADER = 100_000  # bytes; it names four tensors
_ROWS = 10_000  # rows in a row group of parquet, and rows copied at a time


@dataclass(frozen=True)
class Columns:
    """What tells the images of the features.

    Attributes:
        labels: Class of each image, -1 for none, (N,), int64; None if the source has none.
        rows: Row of each image in the source, (N,), int64.
        paths: Path of each image; None where it has none.
    """

    labels: np.ndarray | None
    rows: np.ndarray
    paths: list[str | None]

    @classmethod
    def of(cls, source: Source) -> Columns:
        """Read the columns of all images of a source."""
        rows = np.arange(len(source.dataset), dtype=np.int64)
        paths = [path if path is None else _utf8(path) for path in source.paths()]
        return cls(_labels(source), rows, paths)

    def take(self, places: np.ndarray) -> Columns:
        """Return the columns of the images at some places, (n,)."""
        labels = None if self.labels is None else self.labels[places]
        return Columns(labels, self.rows[places], [self.paths[i] for i in places.tolist()])

    def joined_paths(self) -> bytes | None:
        """Return the paths in UTF-8 with NUL between them; None if no image has one."""
        if all(path is None for path in self.paths):
            return None
        return b"\0".join((path or "").encode() for path in self.paths)


def lay_out(file: BinaryIO, columns: Columns, width: int) -> tuple[int, int]:
    """Write a safetensors file but for its features.

    Args:
        file: File to write.
        columns: What stands beside the features of N images.
        width: Width of the features, F.

    Returns:
        Where the features begin, and where the file ends.
    """
    count, paths = len(columns.rows), columns.joined_paths()
    first = {"labels": columns.labels, "rows": columns.rows}
    first = {name: values for name, values in first.items() if values is not None}
    header, end = {}, 0
    # tensors of 8 bytes, 4 bytes and 1 byte in this order are aligned
    for name in first:
        header[name] = {"dtype": "I64", "shape": [count], "data_offsets": [end, end + 8 * count]}
        end += 8 * count
    shape = {"dtype": "F32", "shape": [count, width]}
    header["features"] = shape | {"data_offsets": [end, end + 4 * count * width]}
    before, end = end, end + 4 * count * width
    if paths is not None:
        shape = {"dtype": "U8", "shape": [len(paths)]}
        header["paths"] = shape | {"data_offsets": [end, end + len(paths)]}
        end += len(paths)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # align the tensors to 8 bytes
    file.write(len(text).to_bytes(8, "little") + text)
    start = file.tell()
    for values in first.values():
        file.write(values.tobytes())
    file.seek(start + end - len(paths or b""))
    file.write(paths or b"")
    file.truncate(start + end)
    return start + before, start + end


def features_start(path: Path) -> int:
    """Return where the features begin in a file by `lay_out`."""
    size, header = _header(path)
    return 8 + size + header["features"]["data_offsets"][0]


def is_laid_out(path: Path) -> bool:
    """Return whether a file is there that has the length that `lay_out` gave it."""
    try:
        size, header = _header(path)
        end = max(tensor["data_offsets"][1] for tensor in header.values())
        return "features" in header and path.stat().st_size == 8 + size + end
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError):
        return False


def _header(path: Path) -> tuple[int, dict]:
    with open_regular(path) as file:
        size = int.from_bytes(file.read(8), "little")
        if size > min(_MOST_HEADER, os.fstat(file.fileno()).st_size):
            raise ValueError(f"{path} is not a safetensors file")
        header = parse_json(file.read(size))
    check_type(header, dict[str, dict], f"the header of {path}")
    for name, tensor in header.items():
        check_type(tensor.get("data_offsets"), list[int], f"data_offsets of {name!r} in {path}")
        if len(tensor["data_offsets"]) != 2:
            raise ValueError(f"{path} is not a safetensors file")
    return size, header


def write_safetensors(path: Path, features: np.ndarray, columns: Columns, kept: np.ndarray) -> None:
    """Write the features of the images at some places, and what stands beside them.

    Args:
        path: File to write.
        features: Features of all images, (N, F).
        columns: Columns of all images.
        kept: The places, (n,), rising.
    """
    with open(path, "wb") as file:
        start, _ = lay_out(file, columns.take(kept), features.shape[1])
        file.seek(start)
        for part in _parts(kept):
            file.write(features[part].tobytes())


def write_parquet(path: Path, features: np.ndarray, columns: Columns, kept: np.ndarray) -> None:
    """Write the same as `write_safetensors` to a parquet file."""
    import pyarrow
    from pyarrow import parquet

    width = features.shape[1]
    names = {"features": pyarrow.list_(pyarrow.float32(), width)}
    if columns.labels is not None:
        names["labels"] = pyarrow.int64()
    names |= {"path": pyarrow.string(), "row": pyarrow.int64()}
    schema = pyarrow.schema(names)
    with parquet.ParquetWriter(path, schema) as writer:
        for part in _parts(kept):
            of_part = columns.take(part)
            flat = pyarrow.array(features[part].reshape(-1))
            values = {
                "features": pyarrow.FixedSizeListArray.from_arrays(flat, width),
                "labels": of_part.labels,
                "path": pyarrow.array(of_part.paths, pyarrow.string()),
                "row": of_part.rows,
            }
            writer.write_table(pyarrow.table({name: values[name] for name in names}, schema))


def write_dataset(
    path: Path, source: Source, features: np.ndarray, columns: Columns, kept: np.ndarray
) -> None:
    """Write a folder of ``datasets`` with the columns of the source, features, paths and rows.

    ``path`` and ``row`` are left out where the source has a column of that name.
    """
    import pyarrow
    from datasets import Dataset, DatasetInfo, Features, Image, List, Value, concatenate_datasets

    kinds = {
        "features": List(Value("float32"), length=features.shape[1]),
        "path": Value("string"),
        "row": Value("int64"),
    }
    taken = source.dataset.column_names
    kind = Features({name: kind for name, kind in kinds.items() if name not in taken})
    flat = pyarrow.array(features.reshape(-1))  # no copy, here and below
    values = {
        "features": pyarrow.FixedSizeListArray.from_arrays(flat, type=kind.arrow_schema.types[0]),
        "path": pyarrow.array(columns.paths, pyarrow.string()),
        "row": pyarrow.array(columns.rows),
    }
    table = pyarrow.table([values[name] for name in kind], schema=kind.arrow_schema)
    plain = source.dataset.with_format(None)
    if isinstance(plain.features[source.image_column], Image):
        if any(path and is_own_url(path) for path in cell_paths(plain, source.image_column)):
            content = partial(_with_content, column=source.image_column)
            kept_in = str(path.with_name("images.arrow"))
            options = {"cache_file_name": kept_in, "load_from_cache_file": False}
            plain = plain.map(content, batched=True, batch_size=64, **options)
        plain = plain.cast_column(source.image_column, Image())
    whole = concatenate_datasets([plain, Dataset(table, info=DatasetInfo(features=kind))], axis=1)
    if len(kept) < len(whole):
        whole = whole.select(kept)
    whole.save_to_disk(path)


def _with_content(rows: dict, column: str) -> dict:
    """Read files whose cells ``datasets`` cannot open; of what cannot be read nothing is kept."""
    cells = []
    for cell in rows[column]:
        if cell is not None and cell["bytes"] is None and is_own_url(cell["path"] or ""):
            try:
                with open_cell(cell["path"]) as file:
                    cell = {"bytes": file.read(), "path": None}
            except (OSError, KeyError, ValueError, RuntimeError):
                cell = {"bytes": b"", "path": None}
        cells.append(cell)
    return {column: cells}


def _parts(kept: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(kept), _ROWS):
        yield kept[first : first + _ROWS]


def _labels(source: Source) -> np.ndarray | None:
    if source.label_column is None:
        return None
    try:
        return np.array(source.labels(), np.int64)
    except ValueError as error:
        logger.info("no labels beside the features: %s", error)
        return None


def _utf8(path: str) -> str:
    """Return a path without what UTF-8 cannot hold, such as bytes of a name in another coding."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

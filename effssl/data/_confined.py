"""Cells of a data set from the Hub, which may name no files but its own."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from effssl.data._paths import outside_cell

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset, IterableDataset

# what datasets puts before the address of an archive, as in zip://photo.png::archive.zip
_ARCHIVES = {"bz2", "gzip", "lz4", "tar", "xz", "zip", "zstd"}


def own_folders(repo: str) -> tuple[str, ...]:
    """Return the folders, and beginnings of addresses, of the files of a data set on the Hub.

    Args:
        repo: ``owner/name``.
    """
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    downloaded = os.path.join(HF_HUB_CACHE, f"datasets--{repo.replace('/', '--')}")
    folders = (downloaded, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH)
    local = tuple(os.path.join(os.path.abspath(folder), "") for folder in folders)
    return (*local, f"hf://datasets/{repo}/", f"hf://datasets/{repo}@")


def is_own(cell: str, folders: tuple[str, ...]) -> bool:
    """Return whether a cell names a file in one of the folders, or in an archive there."""
    *members, file = cell.split("::")
    if not file.startswith(folders) or ".." in file.replace("\\", "/").split("/"):
        return False
    if any(member.partition("://")[0] not in _ARCHIVES for member in members):
        return False
    if "://" in file:
        return True
    # links in the Hub's cache lead to its blobs, and one in an extracted archive nowhere else
    folder, name = os.path.split(file)
    real = os.path.join(_real(folder), name)
    if os.path.islink(real):
        real = os.path.realpath(real)
    return real.startswith(tuple(os.path.join(_real(folder), "") for folder in folders))


@lru_cache(maxsize=1000)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def confined(
    rows: Dataset | IterableDataset, column: str, folders: tuple[str, ...]
) -> Dataset | IterableDataset:
    """Replace the paths of cells that name files of others; to open such a cell is an error.

    Args:
        rows: Rows with undecoded images.
        column: Image column. Cells with content keep it, whatever their paths are.
        folders: What `own_folders` returns.
    """
    import pyarrow
    from datasets import Dataset

    if not hasattr(rows, "data"):  # a stream
        convert = partial(_confined_batch, column=column, folders=folders)
        return rows.map(convert, batched=True, features=rows.features)
    table = rows.data.table
    if not pyarrow.types.is_struct(table.schema.field(column).type):  # arrays, or bytes alone
        return rows
    cells = table[column].chunks
    chunks = [_confined_chunk(chunk, folders) for chunk in cells]
    if all(new is old for new, old in zip(chunks, cells, strict=True)):
        return rows
    place = table.schema.get_field_index(column)
    table = table.set_column(place, table.schema.field(column), pyarrow.chunked_array(chunks))
    name = hashlib.sha256(f"{rows._fingerprint} confined".encode()).hexdigest()[:16]
    return Dataset(table, info=rows.info, indices_table=rows._indices, fingerprint=name)


def _confined_chunk(chunk: pyarrow.StructArray, folders: tuple[str, ...]) -> pyarrow.StructArray:
    """Return cells as they are, or with other paths; their content is not copied."""
    import pyarrow
    import pyarrow.compute

    content = pyarrow.compute.struct_field(chunk, "bytes")
    paths = pyarrow.compute.struct_field(chunk, "path")
    named = pyarrow.compute.and_(content.is_null(), paths.is_valid())
    if not named.true_count:
        return chunk
    before = pyarrow.compute.if_else(named, paths, None).to_pylist()
    after = [None if p is None else _confined(p, folders) for p in before]
    if after == before:
        return chunk
    new = pyarrow.compute.if_else(named, pyarrow.array(after, paths.type), paths)
    values = {"bytes": content, "path": new}
    fields = [chunk.type.field(i) for i in range(chunk.type.num_fields)]
    return pyarrow.StructArray.from_arrays(
        [values[field.name] for field in fields], fields=fields, mask=chunk.is_null()
    )


def _confined_batch(rows: dict, column: str, folders: tuple[str, ...]) -> dict:
    return {column: [_confined_value(value, folders) for value in rows[column]]}


def _confined_value(value: object, folders: tuple[str, ...]) -> object:
    if not isinstance(value, dict) or value.get("bytes") is not None or not value.get("path"):
        return value
    return value | {"path": _confined(value["path"], folders)}


def _confined(path: str, folders: tuple[str, ...]) -> str:
    return path if is_own(path, folders) else outside_cell(path)

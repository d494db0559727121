"""What an image column holds, told without reading an image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow
import pyarrow.compute
import xxhash
from datasets import Dataset, config
from huggingface_hub.constants import HF_HUB_CACHE

from effssl.data._hashing import add
from effssl.data._paths import file_of, member_of
from effssl.progress import Stage

_ROWS = 10_000  # rows looked at together


class Listing(NamedTuple):
    """The images of a column by their names and sizes.

    Attributes:
        images: Number of images.
        names: Digest of the base name and the size in bytes of each image, in order. Folders, times
            and content do not count.
        files: Digest of the names, sizes and times of the files that cells name, in order.
        by_name: Whether no cell holds content or names a file of a cache, so that ``files`` tells
            the images apart.
    """

    images: int
    names: str
    files: str
    by_name: bool


def list_images(dataset: Dataset, column: str) -> Listing:
    """List the images of a column with one look at each file.

    Args:
        dataset: Map-style rows with undecoded images.
        column: Image column, in any form that `effssl.data._decode.open_image` reads.
    """
    names, files, by_name = xxhash.xxh3_128(), xxhash.xxh3_128(), True
    caches = cache_folders()
    with Stage("list the images", len(dataset)) as stage:
        for path, size in _cells(dataset, column):
            if size is not None:
                by_name = False
            elif path is not None:
                name, size = identity(path)
                add(files, name)
                by_name = by_name and not is_cached(path, caches)
            else:
                add(files, None)
            add(names, (path and _without_folder(path), size))
            stage.update()
    return Listing(len(dataset), names.hexdigest(), files.hexdigest(), by_name)


def identity(path: str) -> tuple[str, int | None]:
    """Return the name, size and time of a file as text, and its size if it is here."""
    file = file_of(path)
    if "://" in file:
        return path, None
    try:
        stat = os.stat(file)
    except (OSError, ValueError):  # a name with a zero in it
        return f"{_without_folder(path)} None", None
    return f"{_without_folder(path)} {[stat.st_size, stat.st_mtime_ns]}", stat.st_size


def cache_folders() -> tuple[str, ...]:
    """Return the beginnings of the paths of files that were downloaded or extracted."""
    caches = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE)
    return tuple(os.path.join(cache, "") for cache in caches)


def is_cached(path: str, caches: tuple[str, ...]) -> bool:
    """Tell whether a file is in one of the `cache_folders`, so that its time means nothing."""
    return file_of(path).startswith(caches)


def _without_folder(path: str) -> str:
    return f"{member_of(path) or ''}{os.path.basename(file_of(path))}"


def _cells(dataset: Dataset, column: str) -> Iterator[tuple[str | None, int | None]]:
    """Yield the path of each cell, and the bytes of its content if it holds any."""
    cells = dataset.data.column(column)
    if not pyarrow.types.is_struct(cells.type):  # arrays
        yield str(cells.type), len(dataset)
        return
    field, length = pyarrow.compute.struct_field, pyarrow.compute.binary_length
    # of the content this reads where it begins and ends, and nothing more
    table = pyarrow.table([field(cells, "path"), length(field(cells, "bytes"))], ["path", "size"])
    if dataset._indices is not None:  # not public; rows of the data set would copy the content
        table = table.take(dataset._indices.column(0))
    for batch in table.to_batches(_ROWS):
        yield from zip(batch[0].to_pylist(), batch[1].to_pylist(), strict=True)

"""What the images of a data set are, as one number, wherever they and their caches lie."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash
from datasets import Dataset, config
from filelock import FileLock
from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

from effssl.data._decode import open_path

logger = logging.getLogger(__name__)

_FORMAT = 1  # raise it when the digest of the same images changes
_ROWS = 128  # read at a time
_LARGE = 1e9  # bytes, the reading of which is worth a line in the log


def digest_images(dataset: Dataset, column: str, *, read: bool = True) -> str | None:
    """A digest of the images of a column, in order.

    Where a cell holds bytes or an array its content counts, and where it is only the path of a
    file the file's name, size and time of change. The folder, the way in which rows are stored and
    the cache of ``datasets`` do not count. Reading the content of a large data set takes minutes,
    so its digest is kept in a file under HF_HOME, if that can be written.

    Args:
        dataset: Map-style rows, whose images are not decoded.
        column: Column of the images, as `effssl.data._decode.open_image` reads them.
        read: Whether the content may be read, if no earlier call did.

    Returns:
        Hexadecimal digits; None if the content would have to be read and must not be.
    """
    kept = Path(HF_HOME) / "effssl" / "digests" / _key(dataset, column)
    known = _recall(kept)
    if known is not None:
        return known
    path = _path(dataset[0][column]) if len(dataset) else None
    if path is not None and not _is_cached(path):
        return _digest(dataset, column)[0]  # it takes no reading
    if not read:
        return None
    with _one_at_a_time(kept):
        known = _recall(kept)
        if known is None:
            known, is_content = _digest(dataset, column)
            if is_content:
                _keep(kept, known)
    return known


def _key(dataset: Dataset, column: str) -> str:
    """Changes whenever content may have changed, and sometimes when it has not."""
    # the fingerprint in a folder of save_to_disk stays as it is when the files are exchanged
    files = [file["filename"] for file in dataset.cache_files]
    key = [_FORMAT, dataset._fingerprint, column, [[file, _size_and_time(file)] for file in files]]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]


def _recall(kept: Path) -> str | None:
    try:
        known = kept.read_text()
    except (OSError, ValueError):
        return None
    return known if len(known) == 32 else None


def _keep(kept: Path, known: str) -> None:
    with contextlib.suppress(OSError):
        partial = kept.with_suffix(".partial")
        partial.write_text(known)
        partial.replace(kept)


@contextlib.contextmanager
def _one_at_a_time(kept: Path) -> Iterator[None]:
    """Let the other processes of a run wait for the one that reads the images."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(f"{kept}.lock"))
        yield


def _digest(dataset: Dataset, column: str) -> tuple[str, bool]:
    """The digest, and whether it is of content alone."""
    if dataset.data.nbytes > _LARGE:
        logger.info("reading %s images once, to know them again", f"{len(dataset):,}")
    found, is_content = xxhash.xxh3_128(), True
    for first in range(0, len(dataset), _ROWS):
        for cell in dataset[first : first + _ROWS][column]:
            path = _path(cell)
            if path is None:
                _add(found, cell.get("bytes") if isinstance(cell, dict) else cell)
            elif _is_cached(path):
                _add(found, _read(path))
            else:
                is_content = False
                _add(found, _identity(path))
    return found.hexdigest(), is_content


def _path(cell: object) -> str | None:
    """The path that a cell is, where it has no content of its own."""
    if isinstance(cell, dict):
        return cell.get("path") if cell.get("bytes") is None else None
    return cell if isinstance(cell, str) else None


def _is_cached(path: str) -> bool:
    """Whether a file was downloaded or extracted, so that its time says nothing."""
    caches = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE)
    return _file(path).startswith(tuple(os.path.join(cache, "") for cache in caches))


def _file(path: str) -> str:
    """The file that a path is in: ``x.zip`` for ``zip://photo.png::x.zip``."""
    return path.rpartition("::")[2]


def _identity(path: str) -> str:
    file = _file(path)
    if "://" in file:
        return path
    inside = path[: -len(file)]
    return f"{inside}{os.path.basename(file)} {_size_and_time(file)}"


def _size_and_time(path: str) -> list[int] | None:
    try:
        stat = os.stat(path)
    except OSError:  # it is gone
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _read(path: str) -> bytes | None:
    try:
        with open_path(path) as file:
            return file.read()
    except OSError:
        return None


def _add(found: xxhash.xxh3_128, value: object) -> None:
    """Add bytes, an array, or anything with a repr, and where it ends."""
    if isinstance(value, np.ndarray) and value.dtype == object:  # of unequal arrays
        value = list(value)
    if isinstance(value, list) and any(isinstance(item, np.ndarray) for item in value):
        found.update(f"list {len(value)}\n".encode())
        for item in value:
            _add(found, item)
        return
    if isinstance(value, np.ndarray):
        kind = f"array {value.dtype.str} {value.shape}"
        value = np.ascontiguousarray(value)
    elif isinstance(value, bytes):
        kind = f"bytes {len(value)}"
    else:
        value = repr(value).encode()
        kind = f"other {len(value)}"
    found.update(f"{kind}\n".encode())
    found.update(value)

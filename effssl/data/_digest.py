"""A digest of the images of a data set, wherever they and their caches lie."""

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

from effssl.atomic import write_text
from effssl.data._paths import file_of, member_of, open_cell

logger = logging.getLogger(__name__)

_FORMAT = 1  # increase it when the digest of the same images changes
_ROWS = 128  # rows read at a time
_LARGE = 1e9  # bytes; reading more is worth a line in the log


def digest_images(dataset: Dataset, column: str, *, read: bool = True) -> str | None:
    """Return a digest of the images of a column, in order.

    A cell that holds bytes or an array counts with its content. A cell that holds the path of a
    file counts with the file's name, size and modification time. The folder, the storage format and
    the cache of ``datasets`` do not count. Reading the content of a large data set takes minutes,
    so its digest is kept in a file under HF_HOME if that is writable.

    Args:
        dataset: Map-style rows with undecoded images.
        column: Image column, in any form that `effssl.data._decode.open_image` reads.
        read: Whether the content may be read if no earlier call did.

    Returns:
        Hexadecimal digits, or None if the content has to be read and may not be.
    """
    kept = Path(HF_HOME) / "effssl" / "digests" / _key(dataset, column)
    known = _recall(kept)
    if known is not None:
        return known
    path = _path(dataset[0][column]) if len(dataset) else None
    if path is not None and not _is_cached(path):
        return _digest(dataset, column)[0]  # takes no reading
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
    """Return a key that changes whenever content may have changed, and sometimes when not."""
    # datasets names the content nowhere but in _fingerprint, which is not public; in a folder of
    # save_to_disk it stays when files are replaced, so the files count too
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
        write_text(kept, known)


@contextlib.contextmanager
def _one_at_a_time(kept: Path) -> Iterator[None]:
    """Make the other processes of a run wait for the one that reads the images."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(f"{kept}.lock"))
        yield


def _digest(dataset: Dataset, column: str) -> tuple[str, bool]:
    """Return the digest, and whether it is of content alone."""
    if dataset.data.nbytes > _LARGE:
        logger.info("reading %s images once, to recognize them later", f"{len(dataset):,}")
    hasher, is_content = xxhash.xxh3_128(), True
    for first in range(0, len(dataset), _ROWS):
        for cell in dataset[first : first + _ROWS][column]:
            path = _path(cell)
            if path is None:
                _add(hasher, cell.get("bytes") if isinstance(cell, dict) else cell)
            elif _is_cached(path):
                _add(hasher, _read(path))
            else:
                is_content = False
                _add(hasher, _identity(path))
    return hasher.hexdigest(), is_content


def _path(cell: object) -> str | None:
    """Return the path in a cell that has no content of its own."""
    if isinstance(cell, dict):
        return cell.get("path") if cell.get("bytes") is None else None
    return cell if isinstance(cell, str) else None


def _is_cached(path: str) -> bool:
    """Tell whether a file was downloaded or extracted, so that its time means nothing."""
    caches = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE)
    return file_of(path).startswith(tuple(os.path.join(cache, "") for cache in caches))


def _identity(path: str) -> str:
    file = file_of(path)
    if "://" in file:
        return path
    return f"{member_of(path) or ''}{os.path.basename(file)} {_size_and_time(file)}"


def _size_and_time(path: str) -> list[int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _read(path: str) -> bytes | None:
    try:
        with open_cell(path) as file:
            return file.read()
    except OSError:
        return None


def _add(hasher: xxhash.xxh3_128, value: object) -> None:
    """Add bytes, an array, or anything with a repr, together with its kind and length."""
    if isinstance(value, np.ndarray) and value.dtype == object:  # holds arrays of unequal shapes
        value = list(value)
    if isinstance(value, list) and any(isinstance(item, np.ndarray) for item in value):
        hasher.update(f"list {len(value)}\n".encode())
        for item in value:
            _add(hasher, item)
        return
    if isinstance(value, np.ndarray):
        kind = f"array {value.dtype.str} {value.shape}"
        value = np.ascontiguousarray(value)
    elif isinstance(value, bytes):
        kind = f"bytes {len(value)}"
    else:
        value = repr(value).encode()
        kind = f"other {len(value)}"
    hasher.update(f"{kind}\n".encode())
    hasher.update(value)

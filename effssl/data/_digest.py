"""A digest of the images of a data set, wherever they and their caches lie."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from pathlib import Path

import xxhash
from datasets import Dataset
from huggingface_hub.constants import HF_HOME

from effssl.atomic import write_text
from effssl.data._hashing import add
from effssl.data._listing import Listing, cache_folders, identity, is_cached, list_images
from effssl.data._locks import locked_if_possible
from effssl.data._paths import open_cell
from effssl.foreign import read_text
from effssl.progress import Stage

logger = logging.getLogger(__name__)

_FORMAT = 1  # increase it when the digest of the same images changes
_ROWS = 128  # rows read at a time
_LARGE = 1e9  # bytes; reading more is worth a line in the log


def digest_images(dataset: Dataset, column: str, *, read: bool = True) -> str | None:
    """Return a digest of the images of a column, in order.

    A cell that holds bytes or an array counts with its content. A cell that holds the path of a
    file counts with the file's name, size and modification time, or with its content if it lies in
    a cache of ``datasets``. The folder, the storage format and the cache do not count. Reading the
    content of a large data set takes minutes, so its digest is kept in a file under HF_HOME if that
    is writable.

    Args:
        dataset: Map-style rows with undecoded images.
        column: Image column, in any form that `effssl.data._decode.open_image` reads.
        read: Whether the content may be read if no earlier call did.

    Returns:
        Hexadecimal digits, or None if the content has to be read and may not be.
    """
    return digest_listed(dataset, column, list_images(dataset, column), read=read)


def digest_listed(dataset: Dataset, column: str, listing: Listing, *, read: bool) -> str | None:
    """Do as `digest_images` does for a column that is listed already."""
    if listing.by_name:
        return listing.files
    kept = Path(HF_HOME) / "effssl" / "digests" / _key(dataset, column, listing)
    known = _recall(kept)
    if known is not None or not read:
        return known
    with locked_if_possible(kept):
        known = _recall(kept)
        if known is None:
            known = _digest(dataset, column)
            _keep(kept, known)
    return known


def _key(dataset: Dataset, column: str, listing: Listing) -> str:
    """Return a key that changes whenever content may have changed, and sometimes when not."""
    # datasets names the content nowhere but in _fingerprint, which is not public; in a folder of
    # save_to_disk it stays when files are replaced, so the files count too, those that cells name
    # included
    files = [file["filename"] for file in dataset.cache_files]
    key = [_FORMAT, dataset._fingerprint, column, [[file, _state(file)] for file in files]]
    return hashlib.sha256(json.dumps([*key, listing.files]).encode()).hexdigest()[:24]


def _state(file: str) -> list[int] | None:
    """Return what changes when a file is written to, whatever time it is then given."""
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _recall(kept: Path) -> str | None:
    try:
        known = read_text(kept, 100)
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError):
        os.utime(kept)  # its time is that of the last use
    return known if len(known) == 32 else None


def _keep(kept: Path, known: str) -> None:
    with contextlib.suppress(OSError):
        write_text(kept, known)


def _digest(dataset: Dataset, column: str) -> str:
    if dataset.data.nbytes > _LARGE:
        logger.info("reading %s images once, to recognize them later", f"{len(dataset):,}")
    hasher, caches = xxhash.xxh3_128(), cache_folders()
    with Stage("read the images to recognize them later", len(dataset)) as stage:
        for first in range(0, len(dataset), _ROWS):
            for cell in dataset[first : first + _ROWS][column]:
                path = _path(cell)
                if path is None:
                    add(hasher, cell.get("bytes") if isinstance(cell, dict) else cell)
                elif is_cached(path, caches):
                    add(hasher, _read(path))
                else:
                    add(hasher, identity(path)[0])
                stage.update()
    return hasher.hexdigest()


def _path(cell: object) -> str | None:
    """Return the path in a cell that has no content of its own."""
    if isinstance(cell, dict):
        return cell.get("path") if cell.get("bytes") is None else None
    return cell if isinstance(cell, str) else None


def _read(path: str) -> bytes | None:
    try:
        with open_cell(path) as file:
            return file.read()
    except MemoryError:
        raise
    except Exception:  # archives raise anything; to decode it will say why it cannot be read
        return None

"""Errors of ``datasets`` that come from its cache or its locks, and not from the images."""

from __future__ import annotations

import errno
import os

from huggingface_hub.constants import HF_HOME

# only what writes or locks has these, and of all that is read and written only the cache is written
_OF_WRITING = {
    errno.EDQUOT,
    errno.ENOLCK,
    errno.ENOSPC,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EROFS,
}
_OF_RIGHTS = {errno.EACCES, errno.EPERM}


def cache_error(error: BaseException | None, named: str) -> OSError | None:
    """Return an error of the cache in one line that names the way out; None for any other error.

    Args:
        error: What ``datasets`` raised.
        named: Name of the data set in messages, with its quotes.
    """
    from datasets import config

    if isinstance(error, NotImplementedError):  # earlier versions of filelock, for ENOSYS
        error = OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if not isinstance(error, OSError) or isinstance(error, ConnectionError):
        return None
    file = str(error.filename) if error.filename else None
    caches = tuple(os.path.abspath(folder) for folder in (HF_HOME, config.HF_DATASETS_CACHE))
    refused = error.errno in _OF_RIGHTS and file and os.path.abspath(file).startswith(caches)
    if not refused and error.errno not in _OF_WRITING:
        return None
    return OSError(
        f"data set {named} cannot be prepared in the cache {config.HF_DATASETS_CACHE}: "
        f"{os.strerror(error.errno)}; set HF_HOME to a folder that can be written, on a disk that "
        "has locks and room"
    )

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
        named: Name of the data set for the message.
    """
    from datasets import config

    # earlier versions of filelock, for ENOSYS
    if isinstance(error, NotImplementedError) and "support flock" in str(error):
        error = OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if not isinstance(error, OSError) or isinstance(error, ConnectionError):
        return None
    folder = os.path.dirname(os.path.abspath(error.filename)) if error.filename else ""
    caches = tuple(os.path.abspath(cache) for cache in (HF_HOME, config.HF_DATASETS_CACHE))
    in_cache = folder.startswith(caches)
    if error.errno not in _OF_WRITING and not (in_cache and error.errno in _OF_RIGHTS):
        return None
    return OSError(
        f"data set {named} cannot be prepared in the cache "
        f"{folder if in_cache else config.HF_DATASETS_CACHE}: {os.strerror(error.errno)}; set "
        "HF_HOME to a folder that can be written, on a disk that has locks and room"
    )

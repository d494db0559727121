"""Locks on the files of a cache, done without where the file system has none."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from effssl.foreign import open_regular

try:
    import fcntl
except ImportError:  # Windows does not let a file be deleted that is open
    fcntl = None

logger = logging.getLogger(__name__)

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
"""Numbers of the errors of a file system without locks."""


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock ``path.lock``, so that other processes wait.

    Args:
        path: What is locked; its folder is made if it is missing.
        wait: Whether to wait for a process that holds it.

    Raises:
        TimeoutError: If another process holds it and ``wait`` is not set.
        OSError: If the folder cannot be written, its file system has no locks, or the lock is not a
            regular file.
    """
    lock = path.with_name(path.name + ".lock")
    held = FileLock(lock, timeout=-1 if wait else 0)
    while not _acquire(held, lock):  # its folder was deleted in between
        held.release()
    try:
        yield
    finally:
        held.release()


def _acquire(held: FileLock, lock: Path) -> bool:
    """Acquire a lock, and return whether others who ask for it will find the same file."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError), open(lock, "a", opener=_without_links) as file:
        _try_lock(file)  # or filelock might wait forever for a lock that cannot be had
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_UN)
        try:
            held.acquire()
        except Timeout:
            raise TimeoutError(f"another process holds {lock}") from None
        return os.path.samestat(os.fstat(file.fileno()), os.stat(lock))
    return False


def _without_links(name: str, flags: int) -> int:
    # filelock would empty the file that a planted link leads to, and a pipe waits for a reader
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        opened = os.open(name, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ENXIO:  # a pipe without a reader, or a socket
            raise
        raise OSError(f"{name} is not a regular file: delete it") from error
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(f"{name} is not a regular file: delete it")
    return opened


@contextlib.contextmanager
def locked_if_possible(path: Path) -> Iterator[None]:
    """Hold the lock ``path.lock`` if the folder and its file system allow it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except OSError as error:
            logger.debug("no lock in %s: %s", path.parent, error)
        yield


def held_open(path: Path) -> IO[bytes]:
    """Open a file to read, and have it count as in use until it is closed.

    Raises:
        FileNotFoundError: If it is being deleted.
        OSError: If it cannot be read.
        ValueError: If it is not a regular file.
    """
    file = open_regular(path)
    try:
        held = _try_lock(file, shared=True)
    except OSError:  # the file system has no locks
        return file
    if not held:
        file.close()
        raise FileNotFoundError(errno.ENOENT, "is being deleted", str(path))
    return file


@contextlib.contextmanager
def unused(path: Path) -> Iterator[None]:
    """Keep others from opening a file with `held_open`, to delete it.

    Raises:
        TimeoutError: If a process has it open.
        OSError: If that cannot be known, since the file system has no locks.
    """
    with open(path, "rb+", opener=_without_links) as file:
        if not _try_lock(file):
            raise TimeoutError(f"a running process uses {path.parent}")
        yield


def _try_lock(file: IO, *, shared: bool = False) -> bool:
    """Lock an open file, and return whether that was possible; it is free again once closed."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise OSError(error.errno, os.strerror(error.errno), file.name) from error
    return True

"""Lock on a run folder: one process writes to it, and others are told which."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from effssl.foreign import read_json
from effssl.shown import one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

LOCK = "run.lock"
"""Name of the lock in a run folder; a file that a killed process left locks nothing."""
_HELD = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, which is made if it is missing and deleted if it stays empty.

    The lock is gone with its process, however that ends. Where the file system has no locks, a
    warning says so.

    Raises:
        BlockingIOError: If another process holds it; the message names the process.
        OSError: If the folder cannot be written.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    held = _held if fcntl is not None else _held_by_filelock
    try:
        with held(folder / LOCK):
            yield
    finally:
        for place in made:
            with suppress(OSError):  # it holds a run
                place.rmdir()


@contextmanager
def _held(path: Path) -> Iterator[None]:
    lock = _lock(path)
    while not _is_at(lock, path):  # the process that held it deleted it meanwhile
        os.close(lock)
        lock = _lock(path)
    try:
        about = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}
        with suppress(OSError):  # such as a full disk: the lock holds without it
            os.ftruncate(lock, 0)
            os.write(lock, json.dumps(about).encode())
        yield
    finally:
        with suppress(OSError):
            if _is_at(lock, path):
                path.unlink()  # while it is held, so that nobody else can hold it
        os.close(lock)


def _lock(path: Path) -> int:
    """Open and lock a file; a link is not followed."""
    if path.is_symlink():
        raise OSError(f"{path} is a link, which is not followed: delete it")
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        # unlike with flock, forked workers that outlive a killed run do not hold it
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            logger.warning(
                "%s is on a file system without locks: see to it that no other run writes there",
                path.parent,
            )
            return lock
        os.close(lock)
        if error.errno in _HELD:
            raise _in_use(path) from None
        raise OSError(error.errno, error.strerror, str(path)) from error
    return lock


def _is_at(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), os.lstat(path))
    except FileNotFoundError:
        return False


@contextmanager
def _held_by_filelock(path: Path) -> Iterator[None]:
    """Hold the lock on Windows, where a locked file cannot be read to name its process."""
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise _in_use(path) from None
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):  # another process has opened it by now
            path.unlink(missing_ok=True)


def _in_use(path: Path) -> BlockingIOError:
    holder = "another process"
    with suppress(OSError, ValueError):  # it has not written it yet, or has just ended
        about = read_json(path, 1000)
        holder = f"process {about.get('pid')} on {about.get('host')} since {about.get('since')}"
    return BlockingIOError(
        f"{path.parent} is in use by {one_line(holder, 200)}: wait for it, stop it, or choose "
        "another output"
    )


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")

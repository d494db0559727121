"""The folder in which an output is collected, held by the extraction that writes to it."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import logging
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from effssl.atomic import PARTIAL, write_json
from effssl.data._locks import NO_LOCKS, locked
from effssl.foreign import read_bytes, read_json
from effssl.shown import shown

logger = logging.getLogger(__name__)

_DIGITS = 12  # of the fingerprint, in the name
_LOCK, _HOLDER = "extraction", "holder.json"
_MOST_DONE = 2**28  # bytes of a file of batches, which has 20 a batch and 300 a broken image
_PATIENCE = 10.0  # seconds that the workers of a killed extraction, which hold its lock, may take


def partial_folder(output: Path, fingerprint: str) -> Path:
    """Return the folder of an extraction: another one for other features of the same name."""
    return output.with_name(f"{output.name}.{fingerprint[:_DIGITS]}{PARTIAL}")


def hold(folder: Path, output: Path) -> contextlib.ExitStack:
    """Make a partial folder, and keep other extractions out of it until the result is closed.

    The end of the process, however it comes, lets others in, too. Where the file system has no
    locks, a warning says so.

    Raises:
        FileExistsError: If another extraction holds the folder, or it is a link.
        OSError: If it cannot be written.
    """
    if folder.is_symlink():
        raise FileExistsError(f"{folder} is a link, which is not followed: delete it")
    held, end = contextlib.ExitStack(), time.monotonic() + _PATIENCE
    while True:
        try:
            held.enter_context(locked(folder / _LOCK, wait=False))
            break
        except TimeoutError:
            holder = _holder(folder)
            # one that begins or was killed; a dead one's workers end by themselves
            if not (holder is None or _is_dead(*holder)) or time.monotonic() > end:
                raise FileExistsError(_taken(output, holder)) from None
            time.sleep(0.1)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            logger.warning(
                "%s is on a file system without locks: start no second extraction to it", output
            )
            break
    try:
        write_json(folder / _HOLDER, {"pid": os.getpid(), "host": socket.gethostname()})
    except BaseException:
        held.close()
        raise
    return held


def clear(folder: Path) -> None:
    """Delete what is in a held folder, but not its lock."""
    for path in folder.iterdir():
        if path.name in (f"{_LOCK}.lock", _HOLDER):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def discard(folder: Path, held: contextlib.ExitStack) -> None:
    """Delete a held folder, and let go of it."""
    shutil.rmtree(folder, ignore_errors=True)
    held.close()
    with contextlib.suppress(OSError):  # Windows deletes no file that is open, such as the lock
        (folder / f"{_LOCK}.lock").unlink(missing_ok=True)
        folder.rmdir()


def discard_others(folder: Path, output: Path) -> None:
    """Delete what killed extractions of other features have left for the same output."""
    name = re.compile(rf"{re.escape(output.name)}\.[0-9a-f]{{{_DIGITS}}}{re.escape(PARTIAL)}")
    for other in output.parent.glob(f"{glob.escape(output.name)}.*{PARTIAL}"):
        if other == folder or other.is_symlink() or not name.fullmatch(other.name):
            continue
        with contextlib.suppress(OSError), locked(other / _LOCK, wait=False):
            logger.info("deleting %s, which is left of an extraction of other features", other)
            shutil.rmtree(other)


def batches_done(file: Path) -> Iterator[tuple[int, dict[int, str]]]:
    """Read the batches that a process has recorded, a line each: ``[number, {row: message}]``.

    Yields:
        The number of a batch, and why each broken image of it cannot be read, by its row.

    Raises:
        ValueError: If something else stands there, or it is not a regular file.
    """
    if file.is_symlink():
        raise ValueError(f"{file} is a link, which is not followed: delete it")
    # a line cut off by a kill has no end
    for line in read_bytes(file, _MOST_DONE).split(b"\n")[:-1]:
        try:
            batch, messages = json.loads(line)
            if type(batch) is not int or not all(isinstance(m, str) for m in messages.values()):
                raise TypeError
            yield batch, {int(row): message for row, message in messages.items()}
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise ValueError(
                f"{file} holds {shown(line[:100])}, and not a batch: delete {file.parent}"
            ) from None


def give_name(whole: Path, output: Path, folder: Path) -> None:
    """Give a complete output its name, which must be free.

    Raises:
        FileExistsError: If something has that name by now.
        OSError: If it cannot be renamed.
    """
    try:
        if whole.is_dir():
            _rename_folder(whole, output)
        else:
            _rename_file(whole, output)
    except FileExistsError:
        raise FileExistsError(
            f"{output} has been made by another process meanwhile: move it away and give the same "
            f"command again, which takes the features from {folder}; or choose another name"
        ) from None


def _rename_file(whole: Path, output: Path) -> None:
    try:
        os.link(whole, output)  # unlike a renaming it replaces nothing
    except FileExistsError:
        raise
    except (OSError, AttributeError):  # a file system without hard links
        if os.path.lexists(output):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(output)) from None
        os.replace(whole, output)


def _rename_folder(whole: Path, output: Path) -> None:
    if os.path.lexists(output):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(output))
    try:
        os.rename(whole, output)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR):  # it came in between
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(output)) from None
        raise


def _holder(folder: Path) -> tuple[int, str] | None:
    """Return the process and the machine that hold a folder, or held it last."""
    try:
        found = read_json(folder / _HOLDER, 10_000)
    except (OSError, ValueError):
        return None
    pid, host = found.get("pid"), found.get("host")
    return (pid, host) if type(pid) is int and pid > 0 and isinstance(host, str) else None


def _is_dead(pid: int, host: str) -> bool:
    if host != socket.gethostname() or sys.platform == "win32":  # which has no such question
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # of another user
        return False
    return False


def _taken(output: Path, holder: tuple[int, str] | None) -> str:
    by = f"process {holder[0]} on {shown(holder[1])[1:-1]}" if holder else "another process"
    return f"{output} is being written by {by}: wait for it, or choose another name"

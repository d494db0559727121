"""Files and folders that are written completely or not at all, even if the process is killed."""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial"
"""Ending of the names of files and folders that are not complete."""
_EARLIER = ".earlier"
_ABANDONED = 3600  # seconds without a write
_MOST_WAIT = 30.0  # seconds for a lock, which anybody who can read the folder may hold


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file that replaces ``path`` when the block ends without an exception.

    It lies beside ``path``, so that no symbolic link is followed, and is flushed to disk before it
    is renamed. Text is UTF-8. Temporary files that killed processes left are deleted after an hour.

    Args:
        path: Path of the file. An existing file stays if the block raises.
        mode: ``w`` for text, ``wb`` for bytes.

    Raises:
        OSError: If it cannot be written, or something else than a file or a link is there.
    """
    _check_replaceable(path)
    _clear_abandoned(path)
    partial = _beside(path, PARTIAL)
    # "x" follows no link, and the new file has the rights that the umask leaves
    try:
        encoding = None if "b" in mode else "utf-8"
        with open(partial, mode.replace("w", "x"), encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        _name_file(error, path)
        partial.unlink(missing_ok=True)
        raise


def _check_replaceable(path: Path) -> None:
    """Refuse to put a file in the place of a device, a pipe or a folder."""
    with suppress(FileNotFoundError, NotADirectoryError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
            raise OSError(f"{path} is {kind}, which no file replaces: choose another name")


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    with replacing(path) as file:
        file.write(text)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file completely or not at all.

    Raises:
        OSError: If it cannot be written.
        ValueError: If a number is not finite.
    """
    write_text(path, json_text(content))


def open_to_append(path: Path) -> IO[str]:
    """Open a text file in UTF-8 to add lines, each written when it ends; made if missing.

    Raises:
        OSError: If it cannot be written, or is a link, which is not followed.
    """
    if path.is_symlink():
        raise OSError(f"{path} is a link, which is not written through: put a file in its place")
    # a link that takes its place now is refused, too, and a pipe does not wait for a reader
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

    def opener(name: str, wanted: int) -> int:
        return os.open(name, wanted | flags, 0o666)

    return open(path, "a", buffering=1, encoding="utf-8", opener=opener)


def give_usual_rights(path: Path) -> None:
    """Give a file, made by a library that keeps it private, the rights that the umask leaves."""
    other = _beside(path, PARTIAL)
    try:
        with open(other, "xb") as file:  # asking for the umask would change that of all threads
            mode = os.fstat(file.fileno()).st_mode
    finally:
        other.unlink(missing_ok=True)
    os.chmod(path, stat.S_IMODE(mode))


def json_text(content: Any) -> str:
    """Return what `write_json` writes.

    Raises:
        ValueError: If a number is not finite.
    """
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


@contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Make other processes that ask for the same wait until the block ends.

    The lock is that of the parent folder, which leaves no file. Nobody waits where the system or
    the file system cannot lock a folder.

    Args:
        path: File or folder that is written or replaced; its parent is made if missing.

    Raises:
        TimeoutError: If another process holds the lock for half a minute.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        _lock(parent, path.parent)
        yield
    finally:
        with suppress(OSError):  # a forked process may have it open still
            fcntl.flock(parent, fcntl.LOCK_UN)
        os.close(parent)


def _lock(parent: int, path: Path) -> None:
    end = time.monotonic() + _MOST_WAIT
    while True:
        try:
            fcntl.flock(parent, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(
                    f"another process has locked the folder {path} for {_MOST_WAIT:g} seconds: "
                    "end it, or choose another folder"
                ) from None
            time.sleep(0.02)
        except OSError:  # the file system has no locks
            return


@contextmanager
def replacing_folder(path: Path, *, written: Collection[str] | None = None) -> Iterator[Path]:
    """Make a temporary folder that replaces ``path`` when the block ends without an exception.

    Args:
        path: Path of the folder; its parent is made if missing. An existing folder stays if the
            block raises or the new one cannot get its name, and is deleted after it has. Leftovers
            of killed processes are deleted, too, but for an earlier folder that lost its name.
        written: Names that the earlier folder has from here. What else is in it is moved to the new
            one. All names if None.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path, written)
    partial, earlier = _beside(path, PARTIAL), _beside(path, _EARLIER)
    partial.mkdir()
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _flush(file)
        if os.path.lexists(path):
            path.rename(earlier)
        partial.rename(path)
    except BaseException as error:
        _name_file(error, path)
        if os.path.lexists(earlier) and not path.exists():
            earlier.rename(path)
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _discard(earlier, path, written)


def wait_for_folder(path: Path, seconds: float = 1.0) -> None:
    """Wait while a folder has no name, between the two renames of `replacing_folder`."""
    end = time.monotonic() + seconds
    while not path.exists() and _earlier_folders(path) and time.monotonic() < end:
        time.sleep(0.001)


def is_folder(path: Path) -> bool:
    """Return whether a folder is there, also one that is being renewed."""
    if path.is_dir():
        return True
    wait_for_folder(path)
    return path.is_dir()


def _earlier_folders(path: Path) -> list[Path]:
    return [left for left in _left_beside(path) if left.suffix == _EARLIER]


def _left_beside(path: Path) -> list[Path]:
    """Return what has a name that `_beside` gives."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}({PARTIAL}|{_EARLIER})")
    found = path.parent.glob(f".{glob.escape(path.name)}.*")
    return sorted(left for left in found if name.fullmatch(left.name))


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{ending}")


def _clear_abandoned(path: Path) -> None:
    """Delete temporary files of a file that nobody has written to for an hour."""
    for left in (left for left in _left_beside(path) if left.suffix == PARTIAL):
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime > _ABANDONED and not left.is_dir():
                left.unlink()


def _clear_leftovers(path: Path, written: Collection[str] | None) -> None:
    """Clear what killed processes left; a folder has one writer at a time."""
    for folder in _left_beside(path):
        if folder.suffix == _EARLIER and not path.exists():
            folder.rename(path)  # the kill came between two renames
        elif folder.suffix == _EARLIER:
            _discard(folder, path, written)
        else:
            _delete(folder)


def _discard(earlier: Path, path: Path, written: Collection[str] | None) -> None:
    """Delete an earlier folder, after what others put into it is moved to the new one."""
    if written is not None and earlier.is_dir() and not earlier.is_symlink():
        for other in earlier.iterdir():
            if other.name not in written and not os.path.lexists(path / other.name):
                other.rename(path / other.name)
    _delete(earlier)


def _delete(folder: Path) -> None:
    """Delete a folder; of a link to one only the link."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _name_file(error: BaseException, path: Path) -> None:
    """Add the path to an error that has none, such as that of a full disk."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        error.filename = str(path)


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())

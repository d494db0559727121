"""Files and folders that are written completely or not at all, even if the process is killed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file that replaces ``path`` when the block ends without an exception.

    It lies beside ``path``, so that no symbolic link is followed, and is flushed to disk before it
    is renamed. Text is UTF-8.

    Args:
        path: Path of the file. An existing file stays if the block raises.
        mode: ``w`` for text, ``wb`` for bytes.

    Raises:
        OSError: If it cannot be written.
    """
    handle, name = tempfile.mkstemp(".partial", f".{path.name}.", path.parent)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # as for any new file; tempfile makes private ones
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder that replaces ``path`` when the block ends without an exception.

    Args:
        path: Path of the folder; its parent is made if missing. An existing folder stays if the
            block raises, and is deleted after the new one has its name.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(".partial", f".{path.name}.", path.parent))
    try:
        partial.chmod(0o777 & ~_umask())
        yield partial
        if path.exists():
            earlier = Path(tempfile.mkdtemp(".earlier", f".{path.name}.", path.parent))
            path.rename(earlier / path.name)
            partial.rename(path)
            shutil.rmtree(earlier, ignore_errors=True)
        else:
            partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask

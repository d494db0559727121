"""Reading a model folder that a run may renew at any moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from effssl.atomic import wait_for_folder

T = TypeVar("T")
_TRIES = 10


def read_whole(folder: Path, read: Callable[[], T], names: Sequence[str] = ("config.json",)) -> T:
    """Call a function that reads a model folder, again if the folder was renewed meanwhile.

    Args:
        folder: Model folder.
        read: Function that raises ValueError or OSError if what it reads does not fit together.
        names: Names of the files that tell whether it was renewed.

    Raises:
        ValueError: As ``read`` does, or if the folder is renewed each time that it is read.
        OSError: As ``read`` does.
    """
    for _ in range(_TRIES):
        wait_for_folder(folder)
        before = [identity(folder / name) for name in names]
        try:
            return read()
        except (ValueError, OSError) as error:
            if [identity(folder / name) for name in names] == before:
                raise
            last = error
    raise ValueError(f"{folder} is renewed all the time; at last: {last}") from last


def identity(path: Path) -> tuple[int, ...] | None:
    """Return what tells a file from the one that takes its place; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

"""Names in messages: hints for those that were mistyped, and options as the user typed them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_MOST_LISTED = 10_000  # names of a folder that are compared
_as_flags = False


def did_you_mean(name: object, names: Iterable[str], most: int = 1) -> str:
    """Return ``"did you mean 'x'? "`` with the names closest to ``name``, or an empty text.

    Args:
        name: What was given.
        names: What is allowed.
        most: Largest number of names in the hint.
    """
    near = difflib.get_close_matches(str(name), list(names), n=most)
    return f"did you mean {', '.join(map(repr, near))}? " if near else ""


def nearest_path(path: str | os.PathLike) -> str | None:
    """Return the existing path that is spelled most like one that does not exist.

    The first part of the path that is not there is compared with the names beside it. What follows
    is kept if it is there too.

    Args:
        path: Path, relative to the current folder or absolute; ``~`` is the home folder.

    Returns:
        The path in the form that it was given in, or None if no name is near.
    """
    try:
        expanded = Path(path).expanduser()
        for there in (expanded, *expanded.parents):
            if there.is_dir():
                break
            missing = there
        else:
            return None
        if there == expanded:
            return None
        names = [entry.name for entry, _ in zip(os.scandir(there), range(_MOST_LISTED))]  # noqa: B905
    except (OSError, RuntimeError, ValueError):  # no such user, no access, a null character
        return None
    by_case = {name.lower(): name for name in names}
    near = difflib.get_close_matches(missing.name.lower(), by_case, n=1, cutoff=0.6)
    if not near:
        return None
    found = there / by_case[near[0]]
    whole = found / expanded.relative_to(missing)
    return str(whole if whole.exists() else found)


def nearest(path: str | os.PathLike) -> str:
    """Return ``"; the nearest name is 'x'"`` for a path that does not exist, or an empty text."""
    near = nearest_path(path)
    return "" if near is None else f"; the nearest name is {near!r}"


def option(name: str) -> str:
    """Return the name of an option as the user knows it, for a message.

    Args:
        name: Name of a field or an argument in Python, such as ``batch_size``.

    Returns:
        ``--batch-size`` within `options_as_flags`, else the name itself.
    """
    return f"--{name.replace('_', '-')}" if _as_flags else name


@contextmanager
def options_as_flags(as_flags: bool = True) -> Iterator[None]:
    """Let messages name options by their flags, as on the command line, or by their fields.

    Args:
        as_flags: Whether to name them by their flags.
    """
    global _as_flags
    before, _as_flags = _as_flags, as_flags
    try:
        yield
    finally:
        _as_flags = before

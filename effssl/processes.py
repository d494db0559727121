"""How workers are started: those that import the script must not do its work again."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_FORKS = sys.platform == "linux"  # elsewhere a fork is not safe, or not possible
_BROKEN = (EOFError, BrokenPipeError, ConnectionRefusedError, ConnectionResetError)
_LINES = (
    "a process that is not forked imports the script that started it: let that do its work below "
    'the first of these lines only\n\n    if __name__ == "__main__":\n        {name}(...)\n'
)


def check_main_guard(name: str) -> None:
    """Refuse a call in a process that is still importing the script of its parent.

    The parent may hold a lock while it waits for this process.

    Args:
        name: Name of the public function that was called.

    Raises:
        RuntimeError: If this process imports the script of its parent; the message shows the two
            lines that the script lacks.
    """
    # what Python itself asks before such a process starts another
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(f"{name} was called again: {_LINES.format(name=name)}")


def start_method(workers: int) -> str | None:
    """Return how that many workers of a ``DataLoader`` are started; None is Python's own way.

    A fork is the quickest and does not import the script. Python 3.14 forks nowhere unless told to.

    Raises:
        RuntimeError: If a process that is not forked cannot import the script.
    """
    if not workers:
        return None
    if not _FORKS:
        _try_import()
    return "fork" if _FORKS else None


@cache
def _try_import() -> None:
    """Start a process that does nothing but import the script, once.

    Python waits forever for a worker that ends while it is sent more than fits into a pipe.
    """
    process = multiprocessing.Process(target=int)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"a process exited unexpectedly with exit code {process.exitcode}")


@contextmanager
def explain_lost_workers(name: str) -> Iterator[None]:
    """Explain the error of a worker that ended while it imported the script.

    Args:
        name: Name of the public function that starts workers.

    Raises:
        RuntimeError: In place of the error, where workers are not forked.
    """
    try:
        yield
    except (RuntimeError, *_BROKEN) as error:
        ended = isinstance(error, _BROKEN) or "exited unexpectedly" in str(error)
        if _FORKS or not ended:
            raise
        raise RuntimeError(
            f"a decoding worker of {name} ended at once, and says why above; most often "
            f"{_LINES.format(name=name)}"
        ) from error

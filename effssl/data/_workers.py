"""Number of workers that decode images."""

from __future__ import annotations

import os

_MOST_WORKERS = 8


def worker_count(workers: int | None = None) -> int:
    """Return the number asked for, or by default one for each core, up to 8.

    Under a launcher the cores are divided among the processes on this machine.
    """
    if workers is not None:
        return workers
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(_MOST_WORKERS, max(1, available_cores() // processes))


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""Heartbeats of the processes of a run, to name a process that was lost.

Each process increments a counter in the store of the process group. Communication on the CPU fails
at once when a process is gone; on a GPU it waits, so `wait_with_others` checks the heartbeats
meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist

from effssl.distributed import all_reduce_max, world_size
from effssl.hints import option

_LISTEN = 5.0  # seconds, after a lost connection
_LOOK_EVERY = 5.0  # seconds between checks of the other processes
_POLL_EVERY = 1e-4  # seconds between checks of the device, far less than a step takes


@contextmanager
def heartbeat(every: float = 1.0) -> Iterator[None]:
    """Increment this process's counter from a thread, so that a waiting process counts as alive.

    Args:
        every: Seconds between two increments.
    """
    if world_size() == 1:
        yield
        return
    store = _store().clone()
    # the store is in the first process, which may fail and end while others still connect to it
    all_reduce_max(0)
    key = _keys()[dist.get_rank()]
    stop = threading.Event()

    def beat() -> None:
        try:
            while not stop.wait(every):
                store.add(key, 1)
        except RuntimeError:  # the store is gone, and the run has failed
            pass

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        # a thread that uses the store when Python exits aborts the process
        stop.set()
        thread.join(timeout=10)


def silent_processes() -> list[int]:
    """Return the ranks without a heartbeat in the next seconds, after a lost connection."""
    try:
        before = _beats()
        time.sleep(_LISTEN)
        silent = [rank for rank, beat in enumerate(_beats()) if beat == before[rank]]
        if dist.get_rank() == 0:
            time.sleep(2)  # the store must stay until the others have listened
    except RuntimeError:
        silent = [0]
    return silent


def wait_with_others(is_done: Callable[[], bool], patience: float) -> None:
    """Wait for work of the device that needs the other processes.

    Python's signal handlers run meanwhile, unlike in a wait of torch.

    Args:
        is_done: Returns at once whether the work is done.
        patience: Seconds without a heartbeat after which a process counts as lost.

    Raises:
        ConnectionError: If another process is lost; the message names it.
    """
    heard: list[tuple[int, float]] = []  # last counter of each process, and when it changed
    look_at = time.monotonic() + _LOOK_EVERY
    while not is_done():
        time.sleep(_POLL_EVERY)
        now = time.monotonic()
        if now < look_at:
            continue
        look_at = now + _LOOK_EVERY
        try:
            beats = _beats()
        except RuntimeError as error:  # the store is in the first process
            raise lost_connection([0]) from error
        heard = heard or [(beat, now) for beat in beats]
        heard = [
            earlier if earlier[0] == beat else (beat, now)
            for beat, earlier in zip(beats, heard, strict=True)
        ]
        silent = [rank for rank, (_, since) in enumerate(heard) if now - since > patience]
        if silent:
            raise lost_connection(silent)


def lost_connection(silent: list[int]) -> ConnectionError:
    """Make the error of a process that has lost others.

    Args:
        silent: Ranks without a heartbeat.
    """
    named = ", ".join(str(rank) for rank in silent) or "none"
    return ConnectionError(
        f"process {dist.get_rank()} of {world_size()} lost the others; no sign of life from "
        f"process: {named}; see its log, then go on with {option('resume')}"
    )


def _store() -> dist.Store:
    return dist.distributed_c10d._get_default_store()


def _keys() -> list[str]:
    return [f"effssl/alive/{rank}" for rank in range(world_size())]


def _beats() -> list[int]:
    store = _store()
    return [store.add(key, 0) for key in _keys()]

"""Signs of life of the processes of a run, by which a lost one is named.

Each process counts up in the store through which they found each other. Sums on the CPU fail at
once where a process is gone; work on a GPU only waits, and so its end is waited for here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist

from effssl.distributed import all_reduce_max, world_size

_LOOK_EVERY = 1.0  # seconds between looks at the others
_POLL_EVERY = 1e-4  # seconds between looks at the device, far less than a step takes


@contextmanager
def heartbeat(every: float = 1.0) -> Iterator[None]:
    """Count up in the store, from a thread: a process that waits for another one is alive too.

    Args:
        every: Seconds between two counts.
    """
    if world_size() == 1:
        yield
        return
    store = _store().clone()
    # the store lies in the first process, which may fail and end while others still ask for it
    all_reduce_max(0)
    key = _keys()[dist.get_rank()]
    stop = threading.Event()

    def beat() -> None:
        try:
            while not stop.wait(every):
                store.add(key, 1)
        except RuntimeError:  # the store is gone, and with it the run
            pass

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        # a thread that is in the store when Python ends aborts the process
        stop.set()
        thread.join(timeout=10)


def silent_processes(wait: float = 5.0) -> list[int]:
    """Return the ranks that give no sign of life, after a lost connection.

    Args:
        wait: Seconds to listen.
    """
    try:
        before = _beats()
        time.sleep(wait)
        silent = [rank for rank, beat in enumerate(_beats()) if beat == before[rank]]
        if dist.get_rank() == 0:
            time.sleep(2)  # the others still listen
    except RuntimeError:
        silent = [0]
    return silent


def wait_with_others(is_done: Callable[[], bool], patience: float) -> None:
    """Wait for work of the device that the other processes take part in.

    Python's signal handlers run meanwhile, as they do not while torch waits.

    Args:
        is_done: Says whether the work is done, at once.
        patience: Seconds without a sign of life after which a process is lost.

    Raises:
        ConnectionError: If another process is lost; it is named.
    """
    heard: list[tuple[int, float]] = []  # the last beat of each process, and when it came
    look_at = time.monotonic() + _LOOK_EVERY
    while not is_done():
        time.sleep(_POLL_EVERY)
        now = time.monotonic()
        if now < look_at:
            continue
        look_at = now + _LOOK_EVERY
        try:
            beats = _beats()
        except RuntimeError as error:  # the store lies in the first process
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
    """Return the error of a process that has lost others.

    Args:
        silent: Ranks that give no sign of life.
    """
    named = ", ".join(str(rank) for rank in silent) or "none"
    return ConnectionError(
        f"process {dist.get_rank()} of {world_size()} lost the others; no sign of life from "
        f"process: {named}; see its log, then go on with --resume"
    )


def _store() -> dist.Store:
    return dist.distributed_c10d._get_default_store()


def _keys() -> list[str]:
    return [f"effssl/alive/{rank}" for rank in range(world_size())]


def _beats() -> list[int]:
    store = _store()
    return [store.add(key, 0) for key in _keys()]

"""Files written by a thread while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class BackgroundWriter:
    """Runs jobs that write files in a thread, in the order in which they come.

    Leave it as a context to wait for what is under way, whatever ends the run.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "effssl-writer")
        self._jobs: list[Future] = []

    def submit(self, job: Callable[[], None]) -> None:
        """Start a job when the earlier ones are done."""
        self._jobs.append(self._thread.submit(job))

    def has_failed(self) -> bool:
        """Whether a job has failed so far; it does not wait."""
        return any(job.done() and job.exception() is not None for job in self._jobs)

    def finish(self) -> None:
        """Wait for all jobs.

        Raises:
            OSError: What the first one to fail raised.
        """
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.result()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(wait=True)


def host_copy(state: Any) -> Any:
    """Copy a state to the CPU, with one wait for the device.

    Args:
        state: Tensors, and dicts and lists of them and of anything else.

    Returns:
        The same with all tensors on the CPU; none shares memory with the state.
    """
    copied = _copied(state)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return copied


def _copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        # to pinned memory, from a GPU, so that all copies are under way at once
        return state.detach().to("cpu", non_blocking=True, copy=True)
    if isinstance(state, dict):
        return {name: _copied(value) for name, value in state.items()}
    if isinstance(state, list):
        return [_copied(value) for value in state]
    return state

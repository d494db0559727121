"""Writes files in a background thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class BackgroundWriter:
    """Runs jobs that write files in one thread, in the order of submission.

    As a context manager it waits for unfinished jobs on exit.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "effssl-writer")
        self._jobs: list[Future] = []

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job."""
        self._jobs.append(self._thread.submit(job))

    def has_failed(self) -> bool:
        """Return whether a finished job has failed, without waiting."""
        return any(job.done() and job.exception() is not None for job in self._jobs)

    def wait(self) -> None:
        """Wait for all jobs; `finish` raises what they raised."""
        wait(self._jobs)

    def finish(self) -> None:
        """Wait for all jobs.

        Raises:
            OSError: If a job failed: the error of the first that did; those of others are logged.
        """
        jobs, self._jobs = self._jobs, []
        errors = [error for job in jobs if (error := job.exception()) is not None]
        for error in errors[1:]:
            logger.error("%s", error)
        if errors:
            raise errors[0]

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(wait=True)
        for job in self._jobs:
            if job.exception() is not None and exception[0] is not None:
                logger.error("%s", job.exception())


def host_copy(state: Any) -> Any:
    """Copy a state to the CPU, with one wait for the device.

    Args:
        state: Tensors, and dicts and lists of them and of other values.

    Returns:
        The state with all tensors on the CPU; none shares memory with the original.
    """
    copied = _copied(state)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return copied


def _copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        # from a GPU this copies to pinned memory without waiting
        return state.detach().to("cpu", non_blocking=state.device.type == "cuda", copy=True)
    if isinstance(state, dict):
        return {name: _copied(value) for name, value in state.items()}
    if isinstance(state, list):
        return [_copied(value) for value in state]
    return state

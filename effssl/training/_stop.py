"""Requests to save or stop a run, answered at the end of a step."""

from __future__ import annotations

import signal
import threading
import time

from effssl.training._background import BackgroundWriter

SAVE, TIME_IS_UP, _SIGNAL = 1, 2, 100  # requests; a signal's number is added to 100


class StopSignals:
    """Context manager that records SIGTERM and SIGINT instead of ending the process.

    SLURM and torchrun send SIGTERM before they take the machine away, sometimes both do, so a
    second one changes nothing. SIGINT is Ctrl-C; a second one does not wait for the step.

    Attributes:
        received: Number of the first signal, 0 if there was none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._earlier: dict[int, object] = {}

    def _note(self, number: int, frame: object) -> None:
        self.received = self.received or number
        if number == signal.SIGINT:
            signal.signal(number, self._earlier[number])

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # other threads get no signals
            for number in (signal.SIGTERM, signal.SIGINT):
                self._earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)


def raise_for(number: int) -> None:
    """End the program as the signal would have: KeyboardInterrupt, or exit code 128 + number.

    Raises:
        KeyboardInterrupt: For SIGINT.
        SystemExit: For any other signal.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


class Requests:
    """What this process asks all processes to do after a step.

    Only the main process looks at the clock.

    Args:
        signals: Signals received.
        writer: Writer of checkpoints; the run saves, and so ends, after it failed.
        is_main_process: Whether this is the main process.
        max_minutes: Minutes of this launch after which the run stops, if any.
        checkpoint_minutes: Most minutes between two checkpoints, if any.

    Attributes:
        started: Time when this launch began to train.
        saved: Time of the last checkpoint; set it.
    """

    def __init__(
        self,
        signals: StopSignals,
        writer: BackgroundWriter,
        *,
        is_main_process: bool,
        max_minutes: float | None,
        checkpoint_minutes: float | None,
    ) -> None:
        self.signals, self.writer, self.is_main_process = signals, writer, is_main_process
        self.max_minutes, self.checkpoint_minutes = max_minutes, checkpoint_minutes
        self.started = self.saved = time.perf_counter()

    def current(self) -> int:
        """Return 0, `SAVE`, `TIME_IS_UP`, or 100 plus the number of a signal."""
        if self.signals.received:
            return _SIGNAL + self.signals.received
        if not self.is_main_process:
            return 0
        now = time.perf_counter()
        if self.max_minutes is not None and (now - self.started) / 60 >= self.max_minutes:
            return TIME_IS_UP
        if self.writer.has_failed():
            return SAVE
        every = self.checkpoint_minutes
        return SAVE if every is not None and (now - self.saved) / 60 >= every else 0


def signal_of(request: int) -> int:
    """Return the number of the signal in a request, 0 if it holds none."""
    return max(0, request - _SIGNAL)

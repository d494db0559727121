"""Signals that ask a run to stop, heard at the end of a step."""

from __future__ import annotations

import signal
import threading


class StopSignals:
    """Notes SIGTERM and SIGINT while it is entered, where they would end the process at once.

    SIGTERM is what SLURM and torchrun send before they take the machine away, sometimes both of
    them, so that a second one changes nothing. SIGINT is Ctrl-C; a second one ends at once.

    Attributes:
        received: Number of the first signal, 0 if none came.
    """

    def __init__(self) -> None:
        self.received = 0
        self._earlier: dict[int, object] = {}

    def _note(self, number: int, frame: object) -> None:
        self.received = self.received or number
        if number == signal.SIGINT:
            signal.signal(number, self._earlier[number])

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # others get no signals
            for number in (signal.SIGTERM, signal.SIGINT):
                self._earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)


def raise_for(number: int) -> None:
    """End as a program does that a signal ended: Ctrl-C, or exit code 128 + number.

    Raises:
        KeyboardInterrupt: For SIGINT.
        SystemExit: For any other signal.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)

"""Progress of long work: one bar on a terminal, elsewhere lines in the log from time to time."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import TextIO

from tqdm import tqdm

logger = logging.getLogger(__name__)

_SOON, _LATER = 10.0, 30.0  # seconds between two lines, in the first minute of a stage and after it
_MINUTE = 60.0
_STARTED = 5.0  # seconds by which the first line of a command comes earlier: Python had to start
_LOOK = 0.5  # seconds between two looks at the clock
_DELAY = 0.5  # seconds until a bar is drawn, since most work is done before

_lock = threading.RLock()
_open: list[Stage] = []  # the innermost one is last, and is the one that shows
_said_at = 0.0  # time of the last line
_watching = False
_now = time.monotonic  # tests replace it


class Stage:
    """Work that shows how far it is, as a context manager.

    On a terminal it draws a bar. Where stderr is no terminal it logs a line each 10 s in its first
    minute and each 30 s later, even while it waits. Stages may be nested: the innermost one shows,
    below the titles of those around it, such as ``k-NN, random weights, seed 2 of 3: features``.
    Lines that others log meanwhile stand above the bar. Only the main process shows anything.

    Args:
        title: What is done, a few words.
        total: Number of units of the whole work; None if it is not known.
        unit: What is counted, in the singular.
        done: Units that were done before.
        shown: Whether to show anything.
        command: Whether this is all that a command does. It shows itself only in the log and only
            while no stage is open in it, which then do not repeat its title.

    Attributes:
        done: Number of units done.
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        unit: str = "image",
        *,
        done: int = 0,
        shown: bool = True,
        command: bool = False,
    ) -> None:
        self.title, self.total, self.unit = _printable(title), total, unit
        self.done = self._before = done
        self._shown = shown and os.environ.get("RANK", "0") == "0"
        self._command, self._text = command, ""
        self._bar: tqdm | None = None
        self._opened = 0.0

    def update(self, units: int = 1) -> None:
        """Count units as done."""
        self.done += units
        if self._bar is not None:
            with _lock:
                if self._bar is not None:
                    self._bar.update(units)

    def say(self, text: str) -> None:
        """Set a text that stands beside the count, such as the loss."""
        self._text = text = _printable(text)
        if self._bar is not None:
            with _lock:
                if self._bar is not None:
                    self._bar.set_postfix_str(text)

    def has_spoken(self) -> None:
        """Take a line that the caller has logged for one of this stage's own."""
        global _said_at
        _said_at = _now()

    @property
    def has_bar(self) -> bool:
        """Whether this stage shows in a bar, and not in lines."""
        return self._shown and sys.stderr.isatty()

    def __enter__(self) -> Stage:
        self._opened = _now()
        if self._shown:
            _add(self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._shown:
            _remove(self)

    def _draw(self) -> None:
        """Begin to draw the bar, if this stage draws one."""
        if self._command or not sys.stderr.isatty():
            return
        counts = self.total is not None or self.done
        self._bar = tqdm(
            total=self.total,
            file=sys.stderr,
            initial=self.done,
            desc=_title(),
            unit=self.unit,
            unit_scale=self.total is not None and self.total >= 10_000,
            postfix=self._text or None,
            dynamic_ncols=True,
            delay=_DELAY,
            leave=False,
            bar_format=None if counts else "{desc} [{elapsed}{postfix}]",
        )
        self._bar.start_t -= _now() - self._opened  # it may have been hidden by another stage
        if self._bar.initial:
            self._bar.initial = self._before

    def _erase(self, *, leave: bool = False) -> None:
        if self._bar is not None:
            self._bar.leave = leave
            self._bar.close()
            self._bar = None

    def _tick(self) -> None:
        """Show that time goes on; called now and then."""
        global _said_at
        now = _now()
        if self._bar is not None:
            if now - self._opened < _DELAY:
                return
            if not self.total and self.done:
                self._bar.bar_format = None
            self._bar.delay = 0  # or tqdm would take it for not drawn yet, and not erase it
            self._bar.refresh()
            return
        every = _SOON if now - self._opened < _MINUTE else _LATER
        if not sys.stderr.isatty() and now - _said_at >= every:
            _said_at = now
            logger.info("%s: %s", _title(), self._line(now - self._opened))

    def _line(self, seconds: float) -> str:
        total, units = self.total, f"{self.unit}s"
        new = self.done - self._before
        if not new:
            said = [f"{self.done:,} of {total:,} {units}"] if total else []
            said += [self._text] if self._text else []
            return ", ".join([*said, f"{spell(seconds)} so far"])
        said = [f"{self.done:,} {units}"]
        if total:
            said = [f"{self.done:,} of {total:,} {units} ({100 * self.done / total:.0f} %)"]
        each = seconds / new
        speed = f"{1 / each:,.0f} {units}/s" if each < 0.1 else f"{each:.2g} s each"
        said.append(self._text or speed)
        if total:
            said.append(f"{spell(each * (total - self.done))} left")
        return ", ".join(said)


def spell(seconds: float) -> str:
    """Format a duration for people, such as ``45 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)  # a terminal obeys some others


def _title() -> str:
    titles = [stage.title for stage in _open if not stage._command]
    return ": ".join(titles) or _open[-1].title


def _add(stage: Stage) -> None:
    global _said_at, _watching
    with _lock:
        if not _open:
            _said_at = _now() - (_STARTED if stage._command else 0)
            _share_terminal()
        else:
            _open[-1]._erase()
        _open.append(stage)
        stage._draw()
        if not _watching:
            _watching = True
            threading.Thread(target=_watch, name="effssl progress", daemon=True).start()


def _remove(stage: Stage) -> None:
    with _lock:
        if stage not in _open:  # of the parent, in a process that was forked meanwhile
            return
        outermost = next(other for other in _open if not other._command or other is stage) is stage
        was_last = _open[-1] is stage
        _open.remove(stage)
        stage._erase(leave=outermost and stage.total is not None)
        if not _open:
            _return_terminal()
        elif was_last:
            _open[-1]._draw()


def _watch() -> None:
    """Let the innermost stage show itself, in a thread that ends when no stage is open."""
    global _watching
    while True:
        time.sleep(_LOOK)
        with _lock:
            if not _open:
                _watching = False
                return
            _open[-1]._tick()


class _AboveBars:
    """Stream to a terminal whose lines stand above the bar instead of tearing it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        tqdm.write(text, file=self.stream, end="")

    def flush(self) -> None:
        self.stream.flush()


def _terminal_handlers() -> list[logging.StreamHandler]:
    loggers = [logging.root, *map(logging.getLogger, ("effssl", __name__))]
    handlers = [handler for each in loggers for handler in each.handlers]
    return [handler for handler in handlers if isinstance(handler, logging.StreamHandler)]


def _share_terminal() -> None:
    """Let the handlers of the log write above the bar."""
    if sys.stderr.isatty():
        for handler in _terminal_handlers():
            if handler.stream in (sys.stderr, sys.stdout):
                handler.setStream(_AboveBars(handler.stream))


def _return_terminal() -> None:
    for handler in _terminal_handlers():
        if isinstance(handler.stream, _AboveBars):
            handler.setStream(handler.stream.stream)


def _forget() -> None:
    """Leave the bar to the parent, in a process that was just forked."""
    global _lock, _watching
    _lock, _watching = threading.RLock(), False
    _open.clear()
    _return_terminal()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

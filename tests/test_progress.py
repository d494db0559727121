"""Bars on a terminal, and lines in a log."""

import io
import logging
from types import SimpleNamespace

import pytest

from effssl import progress
from effssl.progress import Stage, spell


class Terminal(io.StringIO):
    def isatty(self):
        return True


def screen(text):
    """Return the lines that a terminal shows after a text with carriage returns."""
    lines, column = [[]], 0
    row = 0
    for part in text.replace("\x1b[A", "\x00"):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            if row == len(lines):
                lines.append([])
        elif part == "\x00":
            row -= 1
        else:
            lines[row][column : column + 1] = [part]
            column += 1
    return ["".join(line).rstrip() for line in lines]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set; the thread that looks at it does nothing."""

    class Clock:
        now = 1000.0

        def pass_(self, seconds):
            self.now += seconds
            progress._open[-1]._tick()

    clock = Clock()
    monkeypatch.setattr(progress, "_now", lambda: clock.now)
    monkeypatch.setattr(progress, "_watching", True)
    return clock


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    # pytest sets sys.stderr itself before it calls a test
    monkeypatch.setattr(progress, "_DELAY", 0)
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream, stdout=stream))
    return stream


def test_a_log_gets_a_line_after_ten_seconds_and_later_fewer(clock, caplog):
    caplog.set_level(logging.INFO)
    with Stage("decode", 1000) as stage:
        clock.pass_(9)
        assert not caplog.messages
        clock.pass_(1)
        assert caplog.messages == ["decode: 0 of 1,000 images, 10 s so far"]
        stage.update(400)
        clock.pass_(10)
        assert caplog.messages[1:] == ["decode: 400 of 1,000 images (40 %), 20 images/s, 30 s left"]
        for _ in range(4):
            clock.pass_(10)
        assert len(caplog.messages) == 5  # the sixth waits for 30 s, as a minute has passed
        for _ in range(6):
            clock.pass_(10)
        assert len(caplog.messages) == 7


def test_short_stages_one_after_the_other_leave_no_long_silence(clock, caplog):
    caplog.set_level(logging.INFO)
    with Stage("effssl evaluate", command=True):
        for seed in range(1, 9):
            with Stage(f"seed {seed} of 8"):
                clock.pass_(6)
    assert [message.split(":")[0] for message in caplog.messages] == [
        f"seed {seed} of 8" for seed in (1, 3, 5, 7)
    ]


def test_a_command_speaks_while_none_of_its_stages_does(clock, caplog):
    caplog.set_level(logging.INFO)
    with Stage("effssl evaluate", command=True):
        clock.pass_(5)  # and not ten, since Python has started before
        clock.pass_(5)
    assert caplog.messages == ["effssl evaluate: 5 s so far"]


def test_a_line_names_all_that_is_being_done(clock, caplog):
    caplog.set_level(logging.INFO)
    with (
        Stage("k-NN, random weights, seed 2 of 3"),
        Stage("features", 100, done=50) as stage,
    ):
        stage.update(10)
        stage.say("loss 2.5")
        clock.pass_(60)
    assert caplog.messages == [
        "k-NN, random weights, seed 2 of 3: features: 60 of 100 images (60 %), loss 2.5, "
        "4 min 00 s left"
    ]


def test_a_line_of_the_caller_counts(clock, caplog):
    caplog.set_level(logging.INFO)
    with Stage("pretrain") as stage:
        clock.now += 8
        stage.has_spoken()
        clock.pass_(8)
        assert not caplog.messages
        clock.pass_(2)
        assert caplog.messages == ["pretrain: 18 s so far"]


def test_an_unknown_total_shows_a_count_and_speed(clock, caplog):
    caplog.set_level(logging.INFO)
    with Stage("count the stream", unit="image") as stage:
        stage.update(3000)
        clock.pass_(10)
    assert caplog.messages == ["count the stream: 3,000 images, 300 images/s"]


def test_only_the_main_process_shows(clock, caplog, monkeypatch, terminal):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("RANK", "1")
    with Stage("decode", 10) as stage:
        stage.update(2)
        assert not progress._open
    monkeypatch.setenv("RANK", "0")
    with Stage("decode", 10, shown=False) as stage:
        stage.update(2)
        assert not progress._open
    assert not caplog.messages and not terminal.getvalue()


def test_a_terminal_shows_one_bar_with_the_text(terminal):
    with Stage("pretrain", 10, "step", done=2) as stage:
        stage.update(3)
        stage.say("loss 2.5, 100 views/s")
        stage._tick()
        (line,) = screen(terminal.getvalue())
        assert line.startswith("pretrain:  50%") and "5/10" in line
        assert "loss 2.5, 100 views/s" in line
    (line, after) = screen(terminal.getvalue())
    assert line.startswith("pretrain:  50%") and not after


def test_what_is_done_at_once_draws_no_bar(terminal, monkeypatch):
    monkeypatch.setattr(progress, "_DELAY", 1000)
    with Stage("decode", 10) as stage:
        stage.update(10)
    assert not terminal.getvalue()


def test_a_bar_that_only_the_clock_drew_is_erased_or_left_whole(terminal, monkeypatch):
    monkeypatch.setattr(progress, "_DELAY", 0.3)
    for title, total in (("create the model", None), ("decode", 10)):
        with Stage(title, total) as stage:
            progress.time.sleep(0.31)
            stage._tick()
            if total:
                stage.done += 2  # as an update within tqdm's least interval
                stage._bar.n += 8
    first, last = screen(terminal.getvalue())
    assert first.startswith("decode:  80%") and not last


def test_nested_stages_share_one_line_of_the_terminal(terminal):
    with Stage("fine-tune with a title that is long", 10, "step") as outer:
        outer.update(4)
        with Stage("test", 100) as inner:
            inner.update(50)
            outer.update(1)
            inner._tick()
            (line,) = screen(terminal.getvalue())
            assert line.startswith("fine-tune with a title that is long: test:  50%")
        outer._tick()
        (line,) = screen(terminal.getvalue())
        assert line.startswith("fine-tune with a title that is long:  50%")
    with Stage("k-NN"):
        (_, line) = screen(terminal.getvalue())
        assert line == "k-NN [00:00]"
    assert screen(terminal.getvalue())[1:] == [""]


def test_log_lines_stand_above_the_bar(terminal):
    handler = logging.StreamHandler(terminal)
    logger = logging.getLogger("effssl")
    logger.addHandler(handler)
    try:
        with Stage("decode", 10) as stage:
            stage.update(5)
            logger.warning("image 3 is broken")
            above, line = screen(terminal.getvalue())
            assert above == "image 3 is broken" and line.startswith("decode:  50%")
        assert handler.stream is terminal
    finally:
        logger.removeHandler(handler)


def test_an_error_leaves_no_stage_open(terminal):
    with pytest.raises(ValueError), Stage("outer"), Stage("inner", 3):
        raise ValueError
    assert not progress._open


def test_the_thread_ends_with_the_last_stage(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "_LOOK", 0.001)
    monkeypatch.setattr(progress, "_SOON", 0.001)
    with Stage("wait"):
        thread = next(t for t in progress.threading.enumerate() if t.name == "effssl progress")
        while not caplog.messages:
            progress.time.sleep(0.001)
    thread.join(timeout=60)
    assert not thread.is_alive() and not progress._watching


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.6, "5 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations_are_spelled_for_people(seconds, text):
    assert spell(seconds) == text


def test_titles_cannot_control_a_terminal(clock, caplog):
    caplog.set_level(logging.INFO)
    with Stage("copy \x1b[2Jx.zip") as stage:
        stage.say("a\nb")
        clock.pass_(10)
    assert caplog.messages == ["copy ?[2Jx.zip: a?b, 10 s so far"]

"""One process writes to a run folder; the others name it, and a killed one does not block them."""

import errno
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from forked import Forked
from runs import Command, lines, metrics, steps_of_checkpoints, until

from effssl.training import _run_lock
from effssl.training._run_lock import LOCK, locked_run


@pytest.fixture
def live(tmp_path):
    """A run that goes on for long."""
    command = Command(tmp_path / "run", epochs=10_000)
    until(lambda: lines(tmp_path / "run") >= 1, command.alive)
    yield command
    command.process.kill()


@pytest.mark.parametrize("flag", [None, "--resume", "--overwrite"])
def test_a_second_run_in_a_folder_ends_with_one_line_that_names_the_first(live, tmp_path, flag):
    run = tmp_path / "run"
    second = Forked(tmp_path / "second.log", _second, str(run), flag)
    assert second.wait() == 2
    (line,) = second.log().splitlines()
    named = f"process {live.process.pid} on {re.escape(socket.gethostname())} since 2[0-9-]+ [0-9:]"
    assert re.match(f"effssl: error: {run} is in use by {named}", line), line
    assert line.endswith(": wait for it, stop it, or choose another output")
    before = lines(run)
    until(lambda: lines(run) > before, live.alive)  # and the first goes on
    live.send_signal(signal.SIGTERM)
    assert live.wait() == 128 + signal.SIGTERM, live.log()
    assert not (run / LOCK).exists()
    steps = [line["step"] for line in metrics(run)]
    assert steps == list(range(1, len(steps) + 1)) and steps_of_checkpoints(run)[-1] == steps[-1]


def _second(run, flag):
    from runs import flags

    from effssl import cli

    cli.main(["pretrain", *flags(run, epochs=10_000), *([flag] if flag else [])])


def test_a_killed_run_leaves_no_lock_that_blocks(live, tmp_path):
    run = tmp_path / "run"
    live.kill()
    assert (run / LOCK).exists()
    done = lines(run)
    Command(run, "--resume", epochs=10_000, max_steps=done + 2).finish()
    assert not (run / LOCK).exists()


def _hold(folder, seconds):
    with locked_run(Path(folder)):
        # as a worker that decodes, which outlives a killed run for some time
        if os.fork() == 0:
            time.sleep(seconds)
            os._exit(0)
        (Path(folder) / "held").touch()
        time.sleep(seconds)


def test_workers_that_outlive_a_killed_run_hold_no_lock(tmp_path):
    holder = Forked(tmp_path / "log", _hold, str(tmp_path / "run"), 20)
    until((tmp_path / "run" / "held").exists, holder.alive)
    with pytest.raises(BlockingIOError, match=f"in use by process {holder.process.pid} on "):
        with locked_run(tmp_path / "run"):
            pass
    holder.kill()
    with locked_run(tmp_path / "run"):
        pass


def test_a_lock_leaves_neither_its_file_nor_an_empty_folder(tmp_path):
    with locked_run(tmp_path / "a" / "b"):
        assert os.listdir(tmp_path / "a" / "b") == [LOCK]
    assert os.listdir(tmp_path) == []
    with locked_run(tmp_path / "a"):
        (tmp_path / "a" / "x").touch()
    assert os.listdir(tmp_path / "a") == ["x"]


def test_a_lock_whose_file_was_deleted_by_its_holder_is_taken_anew(tmp_path, monkeypatch):
    """The holder ends between the moments when another opens its file and locks it."""
    is_at, found = _run_lock._is_at, []

    def deleted_first(lock, path):
        if not found:
            path.unlink()
        found.append(is_at(lock, path))
        return found[-1]

    monkeypatch.setattr(_run_lock, "_is_at", deleted_first)
    with locked_run(tmp_path):
        assert found == [False, True] and (tmp_path / LOCK).exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog, number):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_run_lock.fcntl, "lockf", refuse)
    with locked_run(tmp_path):
        pass
    assert f"{tmp_path} is on a file system without locks: see to it" in caplog.text


def test_a_planted_lock_is_not_written_through(tmp_path):
    (tmp_path / "dear").write_text("mine")
    (tmp_path / LOCK).symlink_to("dear")
    with pytest.raises(OSError, match="run.lock is a link, which is not followed: delete it"):
        with locked_run(tmp_path):
            pass
    assert (tmp_path / "dear").read_text() == "mine"


def test_what_a_lock_says_is_shown_on_one_line(tmp_path):
    (tmp_path / LOCK).write_text('{"host": "a\\nb\\u001b[2J", "pid": [1], "since": null}')
    message = str(_run_lock._in_use(tmp_path / LOCK))
    assert message.isprintable() and "process [1] on a b" in message
    (tmp_path / LOCK).write_text("{")
    assert "in use by another process: wait" in str(_run_lock._in_use(tmp_path / LOCK))


def test_without_posix_locks_a_second_run_is_refused_too(tmp_path, monkeypatch):
    monkeypatch.setattr(_run_lock, "fcntl", None)
    with locked_run(tmp_path), pytest.raises(BlockingIOError, match="in use by another process"):
        with locked_run(tmp_path):
            pass
    with locked_run(tmp_path):
        pass

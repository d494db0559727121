"""A run that was killed, signaled or timed out goes on from a checkpoint to the same bits."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import (
    EVERY_STEP,
    EXAMPLE,
    TINY,
    Command,
    Killed,
    assert_equal,
    assert_nothing_partial,
    flags,
    kill,
    lines,
    metrics,
    state,
    steps_of_checkpoints,
    torchrun,
    truncate,
    until,
)
from test_data_sets import write_parquet

import effssl
from effssl import PretrainConfig
from effssl.training._stop import StopSignals

TIMES = {"views_per_s", "waiting", "memory_mb"}  # what of a line is not a function of the config


def computed(output):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in metrics(output)]


def assert_same_run(output, other):
    """Model folder, last checkpoint and every line of metrics.jsonl are equal."""
    for name in ("model.safetensors", "projector.safetensors"):
        a, b = ((folder / "model" / name).read_bytes() for folder in (output, other))
        assert a == b
    last = steps_of_checkpoints(other)[-1]
    assert steps_of_checkpoints(output)[-1] == last
    a, b = state(output, last), state(other, last)
    a.pop("tracker_id"), b.pop("tracker_id")
    assert_equal(a, b)
    assert computed(output) == computed(other)
    assert [line["step"] for line in metrics(output)] == list(range(1, last + 1))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 30 steps in 6 epochs that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    Command(output, epochs=6, keep_checkpoints=3).finish()
    assert lines(output) == 30
    return output


@pytest.fixture
def copy(whole, tmp_path):
    """The finished run, to be damaged or prolonged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


# Kills


def test_three_kills_during_the_steps_leave_no_trace(whole, tmp_path):
    output, draw = tmp_path / "run", random.Random(0)
    for step in (4, 11, 22):
        command = Command(output, "--resume", epochs=6, keep_checkpoints=3)
        until(lambda step=step: lines(output) >= step, command.alive)
        time.sleep(draw.uniform(0, 0.1))
        command.kill()
    Command(output, "--resume", epochs=6, keep_checkpoints=3).finish()
    assert_same_run(output, whole)
    assert steps_of_checkpoints(output) == steps_of_checkpoints(whole) == [25, 27, 30]
    assert_nothing_partial(output)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_no_trace(tmp_path):
    """Takes 4 to 8 minutes: ``pytest -m slow tests/training/test_resume.py -k twenty``."""
    changes = {"split": "train[:2000]", "batch_size": 16, "epochs": 4}
    draw = random.Random(1)
    moments = ["cache"] * 4 + draw.sample(["start"] * 5 + ["steps"] * 6 + ["save"] * 5, 16)

    def start(name, *more):
        home = {"HF_HOME": str(tmp_path / f"{name}-home"), "OMP_NUM_THREADS": "1"}
        with open(tmp_path / f"{name}.log", "w") as log:
            return subprocess.Popen(
                [sys.executable, EXAMPLE, *flags(tmp_path / name, **changes), *more],
                env=os.environ | home,
                stdout=log,
                stderr=log,
            )

    assert start("whole").wait(timeout=600) == 0, (tmp_path / "whole.log").read_text()
    output, decoded = tmp_path / "parts", tmp_path / "parts-home" / "effssl" / "decoded"
    for moment in moments:
        process, before = start("parts", "--resume"), lines(output)

        def alive(process=process):
            return process.poll() is None

        if moment == "cache":
            until(lambda: list(decoded.glob("*.partial")), alive)
            time.sleep(draw.uniform(0, 0.5))
        elif moment == "start":
            time.sleep(draw.uniform(0.2, 8))
        else:
            # the lines of steps that will be done again are cut off first
            until(lambda before=before: lines(output) != before, alive)
            more = lines(output) + draw.randint(1, 12)
            until(lambda more=more: lines(output) >= more, alive)
            if moment == "save":
                until(lambda: list(output.glob("checkpoints/*.partial")), alive)
            time.sleep(draw.uniform(0, 0.05))
        assert alive(), (tmp_path / "parts.log").read_text()
        process.kill()
        process.wait()
    process = start("parts", "--resume")
    assert process.wait(timeout=600) == 0, (tmp_path / "parts.log").read_text()
    assert_same_run(output, tmp_path / "whole")
    assert_nothing_partial(tmp_path)


# Signals


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_ends_a_run_after_its_step_with_a_checkpoint(whole, tmp_path, number, code):
    output = tmp_path / "run"
    command = Command(output, epochs=6, checkpoint_steps=None)
    until(lambda: lines(output) >= 6, command.alive)
    command.send_signal(number)
    assert command.wait() == code, command.log()
    log, last = command.log(), metrics(output)[-1]["step"]
    assert "Traceback" not in log and "model folder:" not in log
    assert f"{number.name}: stopped after step {last} of 30, the checkpoint is saved" in log
    assert ("effssl: interrupted; a run goes on with --resume" in log) == (code == 130)
    assert steps_of_checkpoints(output)[-1] == last < 30
    assert json.loads((output / "model" / "training.json").read_text())["step"] == last
    assert_nothing_partial(output)
    Command(output, "--resume", epochs=6).finish()
    assert_same_run(output, whole)


@pytest.fixture
def interruptible():
    """As from a terminal: what a shell starts in the background ignores SIGINT."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


def test_a_second_ctrl_c_ends_the_process_at_once(interruptible):
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_sigterm_changes_nothing():
    earlier = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what comes after must not end pytest
    try:
        with StopSignals() as signals:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGTERM)
                assert signals.received == signal.SIGTERM
                assert signal.getsignal(signal.SIGTERM) == signals._note
    finally:
        signal.signal(signal.SIGTERM, earlier)


def processes_with(argument):
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument in file.read_text().split("\0"):
                found.append(int(file.parent.name))
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are found in /proc")
def test_sigterm_to_torchrun_and_its_processes_ends_them_with_a_checkpoint(tmp_path):
    """As SLURM does it; torchrun then sends its processes another."""
    output = tmp_path / "run"
    process = subprocess.Popen(
        [*torchrun(2), EXAMPLE, *flags(output, epochs=200, checkpoint_steps=None)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: lines(output) >= 2, lambda: process.poll() is None)
    children = set(processes_with(str(output))) - {process.pid}
    assert len(children) == 2
    for number in (*children, process.pid):
        os.kill(number, signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1  # torchrun's own, whatever its children's
    assert not processes_with(str(output))
    last = metrics(output)[-1]["step"]
    assert stderr.count(f"SIGTERM: stopped after step {last} of 1000") == 1
    assert steps_of_checkpoints(output)[-1] == last
    # one process goes on where two have stopped
    Command(output, "--resume", epochs=200, max_steps=last + 2).finish()
    assert [line["step"] for line in metrics(output)] == list(range(1, last + 3))


# Time limits


def test_max_minutes_stops_with_a_checkpoint_and_exit_code_0(whole, tmp_path):
    output = tmp_path / "run"
    steps = []
    for _ in range(2):
        command = Command(output, "--resume", epochs=6, max_minutes=0.0005)
        assert command.wait() == 0
        steps.append(metrics(output)[-1]["step"])
        assert f"time is up: stopped after step {steps[-1]} of 30" in command.log()
        assert steps_of_checkpoints(output)[-1] == steps[-1]
        assert json.loads((output / "model" / "training.json").read_text())["step"] == steps[-1]
    assert 0 < steps[0] < steps[1] < 30
    Command(output, "--resume", epochs=6).finish()
    assert_same_run(output, whole)


# Torn checkpoints


def flip_bytes(folder):
    with open(folder / "state.pt", "r+b") as file:
        file.seek((folder / "state.pt").stat().st_size // 2)
        found = file.read(8)
        file.seek(-8, os.SEEK_CUR)
        file.write(bytes(255 - byte for byte in found))


def empty(folder):
    (folder / "state.pt").unlink()


@pytest.mark.parametrize("damage", [truncate, flip_bytes, empty])
def test_a_torn_checkpoint_is_skipped_for_an_older_one(whole, copy, damage):
    damage(copy / "checkpoints" / "step_00000030")
    command = Command(copy, "--resume", epochs=6)
    command.finish()
    assert f"skipped {copy}/checkpoints/step_00000030, which is not whole: " in command.log()
    assert f"resuming from {copy}/checkpoints/step_00000027" in command.log()
    assert_same_run(copy, whole)


def test_a_run_of_torn_checkpoints_alone_is_one_line_and_changes_nothing(copy):
    before = metrics(copy)
    for folder in (copy / "checkpoints").iterdir():
        truncate(folder)
    command = Command(copy, "--resume", epochs=6)
    assert command.wait() == 2
    assert command.log().splitlines()[-1].startswith("effssl: error: none of the 3 checkpoints in")
    assert "Traceback" not in command.log()
    assert metrics(copy) == before and steps_of_checkpoints(copy) == [25, 27, 30]


# Longer and shorter


def test_raised_epochs_extend_a_finished_run_by_the_longer_schedule(whole, copy):
    effssl.pretrain(PretrainConfig(**TINY, **EVERY_STEP, output=str(copy), resume=True, epochs=8))
    lines = metrics(copy)
    assert lines[:30] == metrics(whole) and [line["step"] for line in lines] == list(range(1, 41))
    for line in lines[30:]:  # 4 steps of warm-up, a tenth of the run, then a cosine over 36
        done = (line["step"] - 1 - 4) / 36
        assert line["lr"] == pytest.approx(1e-3 * (1 + math.cos(math.pi * done)) / 2)
    assert lines[-1]["epoch"] == 8 and lines[-2]["lr"] > lines[-1]["lr"] > 0
    training = json.loads((copy / "model" / "training.json").read_text())
    assert training["step"] == 40 and training["config"]["epochs"] == 8


def test_lowered_epochs_leave_a_finished_run_as_it_is(whole, copy):
    effssl.pretrain(PretrainConfig(**TINY, **EVERY_STEP, output=str(copy), resume=True, epochs=3))
    assert metrics(copy) == metrics(whole)
    assert steps_of_checkpoints(copy) == steps_of_checkpoints(whole)
    for name in ("model.safetensors", "projector.safetensors"):
        assert (copy / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()
    assert json.loads((copy / "model" / "training.json").read_text())["step"] == 30


# Within an epoch


@pytest.mark.parametrize(
    "read",
    [
        {},
        {"cache_gb": 0.0, "workers": 1},
        {"streaming": True, "workers": 0},
        {"streaming": True, "workers": 2},
    ],
    ids=["cached", "decoded by a worker", "streamed", "streamed by threads"],
)
def test_a_run_goes_on_within_an_epoch(tmp_path, monkeypatch, read):
    write_parquet(tmp_path / "data")  # 60 images: 6 steps an epoch

    def pretrain(output, **changes):
        more = {"dataset": str(tmp_path / "data"), "split": "train", "output": str(output)}
        more |= {"in_chans": 3, "preset": "cifar", "batch_size": 10, "epochs": 2}
        more |= {"checkpoint_steps": 4} | read | changes
        effssl.pretrain(PretrainConfig(**(TINY | EVERY_STEP | more)))

    pretrain(tmp_path / "whole")
    resume = False
    for killed_at in (5, 10):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill(patch, "step", killed_at)
            pretrain(tmp_path / "parts", resume=resume)
        resume = True
        assert steps_of_checkpoints(tmp_path / "parts")[-1] == killed_at // 4 * 4
    pretrain(tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


# Counts


@pytest.mark.parametrize("log_every", [1, 1000])
def test_a_broken_image_stays_counted_over_a_resume(tmp_path, monkeypatch, log_every):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (120, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    (folder / "064.png").write_bytes(b"to be done")
    config = TINY | EVERY_STEP | {"dataset": str(folder), "split": "train", "epochs": 1}
    config |= {"checkpoint_steps": 1, "batch_size": 10, "log_every": 1}

    def pretrain(name, **changes):
        output = str(tmp_path / name)
        effssl.pretrain(PretrainConfig(**(config | {"output": output} | changes)))
        return [line["broken"] for line in metrics(tmp_path / name)]

    counts = pretrain("whole")
    met = counts.index(1) + 1
    assert met < 12 and counts == [0] * (met - 1) + [1] * (13 - met)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, "_save_checkpoint", met)
        pretrain("parts", log_every=log_every)
    parts = pretrain("parts", log_every=log_every, resume=True)
    assert parts == (counts if log_every == 1 else counts[-1:])


# The same run again


def test_the_configuration_of_a_run_makes_the_same_run_elsewhere(whole, tmp_path):
    output = tmp_path / "again"
    args = ["--config", str(whole / "config.json"), "--output", str(output)]
    Command(output, args=args).finish()
    assert_same_run(output, whole)
    configs = [json.loads((run / "config.json").read_text()) for run in (output, whole)]
    assert configs[0] | {"output": ""} == configs[1] | {"output": ""}

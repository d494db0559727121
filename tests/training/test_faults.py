"""Runs survive full disks and steps that are not finite, or end with a message that helps."""

import errno
import json
import os
import resource
import shutil
import signal

import pytest
import torch
from runs import (
    EVERY_STEP,
    TINY,
    Command,
    Killed,
    assert_equal,
    assert_nothing_partial,
    kill,
    lines,
    metrics,
    state,
    steps_of_checkpoints,
    until,
)

import effssl
from effssl import PretrainConfig
from effssl.atomic import replacing_folder, write_json
from effssl.training import _own, loop
from effssl.training._checkpoint import load_checkpoint
from effssl.training._faults import NonFiniteGuard

# Full disks: no file of a process may grow beyond a limit, set between the sizes of metrics.jsonl
# and of a checkpoint, so that the operating system refuses to write the checkpoint

LIMIT = 300_000


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A finished run of 5 steps, to be prolonged under the limit."""
    output = tmp_path_factory.mktemp("short") / "run"
    Command(output, epochs=1).finish()
    assert (output / "model" / "model.safetensors").stat().st_size > LIMIT
    return output


@pytest.fixture
def copy(short, tmp_path):
    return shutil.copytree(short, tmp_path / "run")


def prolong_on_a_full_disk(output, *more):
    """Go on with a finished run to 150 steps, with a disk that is full after the first of them."""
    command = Command(output, "--resume", *more, epochs=30, checkpoint_steps=5)
    until(lambda: lines(output) > 5, command.alive)
    resource.prlimit(command.process.pid, resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    return command


def assert_whole(output):
    """What was written before is, and nothing else."""
    assert_nothing_partial(output)
    last = steps_of_checkpoints(output)[-1]
    assert load_checkpoint(output)["step"] == last
    model = effssl.from_pretrained(output / "model")
    assert model(torch.rand(2, 1, 32, 32)).isfinite().all()
    return last


def test_a_run_trains_on_when_the_disk_is_full_and_says_so(copy):
    command = prolong_on_a_full_disk(copy)
    assert command.wait() == 2  # the last checkpoint was not written
    log = command.log().splitlines()
    tries = [line for line in log if line.startswith(f"cannot write a checkpoint to {copy}: ")]
    assert len(tries) > 5 and len(set(tries)) == 1
    assert tries[0].endswith("File too large; training goes on and the next one will be tried")
    assert any(line.startswith(f"cannot write the model folder to {copy}: ") for line in log)
    assert log[-1] == (
        f"effssl: error: cannot write a checkpoint to {copy}: File too large; what was there "
        "before is whole: make room and give --resume"
    )
    assert "Traceback" not in command.log()
    assert [line["step"] for line in metrics(copy)] == list(range(1, 151))
    last = assert_whole(copy)
    assert last < 50

    # there is room again
    Command(copy, "--resume", epochs=30, checkpoint_steps=5, max_steps=last + 5).finish()
    assert assert_whole(copy) == last + 5
    assert [line["step"] for line in metrics(copy)] == list(range(1, last + 6))


def test_a_run_stops_when_the_disk_is_full_if_told_so(copy):
    command = prolong_on_a_full_disk(copy, "--stop-when-disk-full")
    assert command.wait() == 2
    log = command.log().splitlines()
    assert log[-1].startswith("effssl: error: cannot write ")
    assert log[-1].endswith("what was there before is whole: make room and give --resume")
    assert "Traceback" not in command.log() and "training goes on" not in command.log()
    assert lines(copy) < assert_whole(copy) + 11


def test_the_disk_being_full_from_the_start_is_said_on_resume(copy):
    command = Command(copy, "--resume", most_bytes=LIMIT, epochs=3)
    code = command.wait()
    assert code == 2 and "Traceback" not in command.log()
    assert "effssl: error: cannot write" in command.log().splitlines()[-1]
    assert assert_whole(copy) == 5


def test_a_full_metrics_file_does_not_hide_what_to_do(copy):
    command = Command(copy, "--resume", most_bytes=8_000, epochs=6)
    code, log = command.wait(), command.log()
    assert code == 2 and "Traceback" not in log
    assert "cannot write metrics.jsonl: File too large" in log
    assert log.splitlines()[-1].startswith(f"effssl: error: cannot write a checkpoint to {copy}: ")
    assert 5 < lines(copy) < 30
    Command(copy, "--resume", epochs=6).finish()
    assert [line["step"] for line in metrics(copy)] == list(range(1, 31))


def no_room(*args, **more):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_last_model_is_written_where_the_last_checkpoint_does_not_fit(copy):
    sizes = [path.stat().st_size for path in copy.glob("*/*/state.pt")]
    limit = (min(sizes) + (copy / "model" / "model.safetensors").stat().st_size) // 2
    command = Command(copy, "--resume", most_bytes=limit, epochs=3)
    assert command.wait() == 2
    last = command.log().splitlines()[-1]
    assert last.startswith(f"effssl: error: cannot write a checkpoint to {copy}: File too large")
    assert json.loads((copy / "model" / "training.json").read_text())["step"] == 15
    assert assert_whole(copy) == 5


@pytest.mark.parametrize("stop", [False, True])
def test_the_last_checkpoint_is_written_where_the_last_model_does_not_fit(copy, monkeypatch, stop):
    monkeypatch.setattr(loop, "save_pretrained", no_room)
    with pytest.raises(OSError, match=f"the model folder to {copy}: No space left on device"):
        pretrain(copy, resume=True, epochs=2, stop_when_disk_full=stop)
    assert assert_whole(copy) == 10


def test_where_neither_is_written_both_are_said(copy, monkeypatch, caplog):
    monkeypatch.setattr(loop, "save_pretrained", no_room)
    monkeypatch.setattr(loop, "save_checkpoint", no_room)
    with pytest.raises(OSError, match=f"cannot write a checkpoint to {copy}: No space left"):
        pretrain(copy, resume=True, epochs=2)
    assert f"cannot write the model folder to {copy}: No space left on device" in caplog.text


@pytest.mark.parametrize("stop", [False, True])
def test_an_earlier_failure_does_not_keep_the_last_ones_from_being_tried(copy, monkeypatch, stop):
    """The disk is full for one checkpoint, or a run is told to stop by that."""
    save, failed = loop.save_checkpoint, []

    def full_once(folder, step, state, *, keep):
        if not failed:
            failed.append(step)
            no_room()
        return save(folder, step, state, keep=keep)

    monkeypatch.setattr(loop, "save_checkpoint", full_once)
    if not stop:
        pretrain(copy, resume=True, epochs=2, checkpoint_steps=2)
        assert failed == [6] and assert_whole(copy) == 10
        return
    with pytest.raises(OSError, match=f"cannot write a checkpoint to {copy}: No space left"):
        pretrain(copy, resume=True, epochs=2, checkpoint_steps=2, stop_when_disk_full=True)
    last = metrics(copy)[-1]["step"]
    assert assert_whole(copy) == last
    assert json.loads((copy / "model" / "training.json").read_text())["step"] == last


def test_a_file_that_does_not_fit_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'a.json'}'"):
        write_json(tmp_path / "a.json", {})
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'model'}'"):
        with replacing_folder(tmp_path / "model") as partial:
            (partial / "x").touch()
    assert os.listdir(tmp_path) == []


# Steps that are not finite


def spoil(monkeypatch, steps, *, loss=True):
    """Make the loss, or else only its gradient, not finite at some of the steps of a process."""
    create_loss, calls = _own.create_loss, [0]

    def create_spoilt(*args, **kwargs):
        loss_fn = create_loss(*args, **kwargs)

        def spoilt(z, return_parts=False):
            calls[0] += 1
            now = calls[0] in steps
            if now and not loss:
                z.register_hook(lambda gradient: gradient * float("inf"))
            value, parts = loss_fn(z, return_parts=True)
            if now and loss:
                value = value * float("nan")
                parts = parts | {"redundancy": value.detach()}
            return (value, parts) if return_parts else value

        return spoilt

    monkeypatch.setattr(_own, "create_loss", create_spoilt)


def pretrain(output, **changes):
    config = TINY | EVERY_STEP | {"output": str(output)} | changes
    return effssl.pretrain(PretrainConfig(**config))


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


@pytest.mark.parametrize("micro_batch", [None, 4])
@pytest.mark.parametrize("loss", [True, False], ids=["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_but_its_count(
    tmp_path, monkeypatch, loss, micro_batch
):
    spoil(monkeypatch, {3}, loss=loss)
    output = tmp_path / "run"
    pretrain(output, max_steps=3, checkpoint_steps=1, micro_batch=micro_batch)
    before, after = state(output, 2), state(output, 3)
    assert any(name.endswith("running_mean") for name in after["model"])
    assert_equal(after["model"], before["model"])  # weights and running statistics
    assert_equal(after["optimizer"]["state"], before["optimizer"]["state"])
    assert before["faults"] == {"skipped": 0, "in_a_row": 0}
    assert after["faults"] == {"skipped": 1, "in_a_row": 1}


@pytest.mark.parametrize("loss", [True, False], ids=["loss", "gradient"])
def test_nine_steps_in_a_row_are_skipped_and_counted(tmp_path, monkeypatch, loss):
    spoilt = {2, 5, *range(7, 16), *range(17, 26)}
    spoil(monkeypatch, spoilt, loss=loss)
    folder = pretrain(tmp_path / "run", epochs=6)
    content = (tmp_path / "run" / "metrics.jsonl").read_text()
    written = [json.loads(line, parse_constant=refuse) for line in content.splitlines()]
    assert [line["step"] for line in written] == list(range(1, 31))
    name = "loss" if loss else "grad_norm"
    assert {line["step"] for line in written if line[name] is None} == spoilt
    assert loss or all(line["loss"] is not None for line in written)
    for line in written:
        assert line["skipped_steps"] == len([s for s in spoilt if s <= line["step"]])
    rates = [line["lr"] for line in written]
    assert rates[25] < rates[15] < rates[4]  # the schedule goes on
    assert effssl.from_pretrained(folder)(torch.rand(2, 1, 32, 32)).isfinite().all()


@pytest.mark.parametrize("loss", [True, False], ids=["loss", "gradient"])
def test_ten_steps_in_a_row_end_the_run_with_what_to_do(tmp_path, monkeypatch, loss):
    spoil(monkeypatch, set(range(8, 100)), loss=loss)
    with pytest.raises(FloatingPointError) as info:
        pretrain(tmp_path / "run", epochs=6, lr=0.002)
    message = str(info.value)
    if loss:
        assert message.startswith("the loss is nan (invariance ") and "redundancy nan" in message
    else:
        assert message.startswith("the gradient's norm is ") and "though the loss is" in message
    assert "at step 17, the last of 10 such steps in a row: lower lr (0.002)" in message
    assert "or set grad_clip" in message
    # the checkpoints at 9, 10, 12 and 15 were due within the row
    last = tmp_path / "run" / "checkpoints" / "step_00000006"
    assert message.endswith(f"; the last good checkpoint is {last}")
    good = load_checkpoint(tmp_path / "run")
    assert good["step"] == 6 and good["faults"] == {"skipped": 0, "in_a_row": 0}
    assert all(value.isfinite().all() for value in good["model"].values())
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 17))

    # a defect that has been mended
    monkeypatch.undo()
    pretrain(tmp_path / "run", epochs=6, lr=0.002, resume=True, max_steps=8)
    assert [line["skipped_steps"] for line in metrics(tmp_path / "run")] == [0] * 8


def test_skipped_steps_stay_counted_over_a_resume(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        spoil(patch, {2, 4, 5})
        kill(patch, "step", 7)
        pretrain(tmp_path / "run", checkpoint_steps=1)
    pretrain(tmp_path / "run", checkpoint_steps=1, resume=True, epochs=2)
    counts = [line["skipped_steps"] for line in metrics(tmp_path / "run")]
    assert counts == [0, 1, 1, 2, 3, 3, 3, 3, 3, 3]


def test_a_row_of_skipped_steps_goes_on_over_a_signal_and_a_resume(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="143"):
        spoil(patch, set(range(4, 100)))
        write = loop.Monitor.step

        def signaled(self, step, *args, **more):
            write(self, step, *args, **more)
            if step == 7:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(loop.Monitor, "step", signaled)
        pretrain(tmp_path / "run", epochs=6)
    assert steps_of_checkpoints(tmp_path / "run")[-1] == 7
    spoil(monkeypatch, set(range(1, 100)))
    with pytest.raises(FloatingPointError, match="at step 13, the last of 10 such steps in a row"):
        pretrain(tmp_path / "run", epochs=6, resume=True)


@pytest.mark.parametrize(
    "changes, advice",
    [
        ({}, "lower lr (0.001), or set grad_clip; no checkpoint"),
        ({"grad_clip": 1.0}, "lower lr (0.001); no checkpoint"),
        (
            {"grad_clip": 1.0, "precision": "fp16"},
            "lower lr (0.001) or use precision bf16 or fp32 instead of fp16; no checkpoint",
        ),
    ],
)
def test_the_advice_fits_the_configuration(tmp_path, changes, advice):
    settings = {"lr": 1e-3, "precision": "auto", "grad_clip": None} | changes
    assert NonFiniteGuard(torch.nn.Linear(2, 2), tmp_path, **settings).advice() == advice


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_steps_that_are_not_finite_are_skipped_on_the_gpu(tmp_path, monkeypatch, precision):
    spoil(monkeypatch, {3, 4})
    output = tmp_path / "run"
    kept = {"checkpoint_steps": 1, "keep_checkpoints": 9, "max_steps": 6}
    pretrain(output, cpu=False, precision=precision, **kept)
    assert metrics(output)[-1]["skipped_steps"] == 2
    before, after = state(output, 2), state(output, 5)
    assert all(value.isfinite().all() for value in after["model"].values())
    if precision == "fp16":
        assert after["scaler"]["scale"] < before["scaler"]["scale"]


@pytest.mark.gpu
def test_fp16_lowers_its_scale_without_counting_skipped_steps(tmp_path, monkeypatch):
    spoil(monkeypatch, {2, 3}, loss=False)
    output = tmp_path / "run"
    pretrain(output, cpu=False, precision="fp16")
    assert metrics(output)[-1]["skipped_steps"] == 0
    last = state(output, steps_of_checkpoints(output)[-1])
    assert last["scaler"]["scale"] <= 2**16 / 4  # less, if fp16 overflows in other steps too

"""Small runs for the tests: started in all ways, killed, and read back."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import Forked

from effssl import PretrainConfig, cli, pretrain
from effssl.training import loop

EXAMPLE = Path(__file__).parents[2] / "examples" / "pretrain.py"
TINY = {
    "backbone": "test_resnet",
    "in_chans": 1,
    "img_size": 32,
    "preset": "grey",
    "projector_dim": 16,
    "views": 2,
    "batch_size": 8,
    "split": "train[:40]",
    "precision": "fp32",
    "cpu": True,
}
EVERY_STEP = {"log_every": 1, "checkpoint_steps": 3, "evaluate_every": 0}


def tiny(tmp_path, **changes):
    return PretrainConfig(**(TINY | {"output": str(tmp_path / "run"), "epochs": 2} | changes))


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


class Killed(Exception):
    pass


def kill(monkeypatch, name, at_step, *, before=False):
    """Make a method raise in place of a kill, after or before it did its work at a step."""
    owner = loop.Monitor if name == "step" else loop._Run
    original = getattr(owner, name)

    def killed(self, *arguments, **more):
        step = arguments[0] if owner is loop.Monitor else self.state.step
        if before and step == at_step:
            raise Killed
        original(self, *arguments, **more)
        if step == at_step:
            raise Killed

    monkeypatch.setattr(owner, name, killed)


def launch(tmp_path, *flags, launcher):
    config = PretrainConfig(**TINY, output=str(tmp_path / "run"), max_steps=3)
    return subprocess.run(
        [*launcher, str(EXAMPLE), *config.flags(), *flags],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def torchrun(processes):
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
    ]


def flags(output, **changes):
    return PretrainConfig(**(TINY | EVERY_STEP | {"output": str(output)} | changes)).flags()


class Command(Forked):
    """``effssl pretrain`` in a process of its own."""

    def __init__(self, output, *more, args=None, most_bytes=None, **changes):
        self.output = Path(output)
        args = flags(output, **changes) if args is None else args
        log = self.output.with_name(self.output.name + ".log")
        super().__init__(log, cli.main, ["pretrain", *args, *more], most_bytes=most_bytes)

    def finish(self):
        assert self.wait() == 0, self.log()
        return self.output


def until(condition, alive):
    """Wait for something that a process does, which must not end before."""
    end = time.monotonic() + 120
    while not condition():
        assert alive() and time.monotonic() < end
        time.sleep(0.002)


def lines(output):
    """Whole lines of metrics.jsonl, also while it is written."""
    try:
        return (Path(output) / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def steps_of_checkpoints(output):
    return sorted(int(folder.name[5:]) for folder in (output / "checkpoints").iterdir())


def state(output, step):
    """A checkpoint, but for the time that it took."""
    file = output / "checkpoints" / f"step_{step:08d}" / "state.pt"
    found = torch.load(file, weights_only=True)
    assert found.pop("minutes") > 0
    return found


def assert_equal(a, b, where=""):
    """Nested dicts and lists of tensors and numbers, bit by bit."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def check_resumed(tmp_path, monkeypatch, options):
    """A run of 10 steps that is killed at the fifth and resumed ends with the same bits."""
    whole = pretrain(tiny(tmp_path / "whole", **options))
    with monkeypatch.context() as patch:
        kill(patch, "step", 5)
        with pytest.raises(Killed):
            pretrain(tiny(tmp_path / "killed", **options))
    killed = pretrain(tiny(tmp_path / "killed", resume=True, **options))
    a, b = (state(folder.parent, 10) for folder in (killed, whole))
    a.pop("tracker_id"), b.pop("tracker_id")
    assert_equal(a, b)


def assert_nothing_partial(folder):
    left = [p for p in folder.rglob("*") if p.name.endswith((".partial", ".earlier"))]
    assert not left


def truncate(folder):
    os.truncate(folder / "state.pt", (folder / "state.pt").stat().st_size // 2)

"""Two evaluations of one model folder at the same time: both are noted."""

import json
import time
from pathlib import Path

import torch
from forked import Forked

import effssl
from effssl.cli import main
from effssl.hub import _folder


def measure(model, split, mine, others):
    """Evaluate a folder, and wait a moment for the other one when its notes were read."""
    read = _folder.read_record

    def slowly(folder):
        found = read(folder)
        Path(mine).touch()
        end = time.monotonic() + 3
        while not Path(others).exists() and time.monotonic() < end:
            time.sleep(0.01)
        return found

    _folder.read_record = slowly
    main(
        ["evaluate", model, "--cpu", "--dataset", "fashion-mnist-sample", "--protocols"]
        + ["spectrum", "--test-split", split]
    )


def test_two_evaluations_at_once_are_both_noted(tmp_path):
    torch.manual_seed(0)
    net = effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=8)
    effssl.save_pretrained(net, tmp_path / "model")
    splits, files = ("test[:40]", "test[40:80]"), [str(tmp_path / name) for name in "ab"]
    forks = [
        Forked(
            tmp_path / f"{i}.log", measure, str(tmp_path / "model"), split, files[i], files[-1 - i]
        )
        for i, split in enumerate(splits)
    ]
    for fork in forks:
        assert fork.wait() == 0, fork.log()
    noted = json.loads((tmp_path / "model" / "training.json").read_text())["evaluation"]
    assert sorted(one["test_split"] for one in noted) == sorted(splits)

"""Every example is short, says how to run it, and runs."""

import json
import runpy
import sys
from pathlib import Path

import pytest

import effssl
from effssl.cli import main

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Run an example with flags, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *flags: str) -> None:
        monkeypatch.setattr(sys, "argv", [name, *flags])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


def test_the_examples_are_short_and_say_how_to_run_them():
    examples = sorted(EXAMPLES.glob("*.py"))
    names = {"pretrain", "own_loop", "own_loss", "finetune", "linear_probe", "publish"}
    assert names <= {file.stem for file in examples}
    for file in examples:
        text = file.read_text()
        assert f"examples/{file.name}" in text.split('"""')[1], file
        assert len(text.splitlines()) <= 60 or file.stem not in names, file


def test_pretrain_then_publish_without_sending(example, capsys):
    flags = "--backbone test_resnet --in-chans 1 --img-size 32 --preset grey --projector-dim 16"
    more = "--batch-size 8 --max-steps 1 --precision fp32 --cpu --output run --views 2"
    example("pretrain.py", *flags.split(), *more.split())
    assert Path("run/model/model.safetensors").is_file()
    example("publish.py", "run", "me/first")
    assert "nothing was sent to me/first" in capsys.readouterr().out
    assert "license: apache-2.0" in Path("run/model/README.md").read_text()


def test_own_loop_makes_a_model_that_loads(example, capsys):
    example("own_loop.py", "--split", "train[:48]", "--epochs", "2", "--batch-size", "16", "--cpu")
    assert "epoch 2: loss" in capsys.readouterr().out
    model = effssl.from_pretrained("own-model")
    assert model.backbone.pretrained_cfg["input_size"] == [1, 32, 32]


def test_own_loss_runs_by_itself_and_by_its_name(example, monkeypatch):
    example("own_loss.py")
    name = json.loads(Path("runs/own-loss/config.json").read_text())["loss"]
    assert name == "own_loss:near_and_spread"
    monkeypatch.syspath_prepend(EXAMPLES)
    flags = "--backbone test_convnext2 --patch-size 4 --in-chans 1 --img-size 32 --projector-dim 64"
    more = "--views 2 --split train[:64] --batch-size 16 --max-steps 1 --cpu"
    own = ["--loss", name, "--preset", "own_loss:crops"]
    main(["pretrain", *flags.split(), *more.split(), *own])
    assert Path("runs/test_convnext2-own_near_and_spread-p64-aug2/model").is_dir()


@pytest.mark.parametrize(
    "name, flags, shown",
    [
        ("finetune.py", ["--epochs", "1"], "top-1 "),
        ("linear_probe.py", [], "linear: "),
    ],
)
def test_features_are_used(example, capsys, name, flags, shown):
    example(name, "--train-split", "train[:64]", "--test-split", "test[:32]", *flags)
    assert shown in capsys.readouterr().out

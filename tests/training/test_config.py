"""PretrainConfig: every field is documented, bounded and named in its error."""

import dataclasses
import json
import subprocess
import sys

import pytest

from effssl import PretrainConfig


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("views", 1, "views must be 2 or more"),
        ("loss", "simclr", "loss must be one of bt, vicreg, spectral; got 'simclr'"),
        ("multiview", "all", "multiview must be one of pairs, mean"),
        ("preset", "gray", "preset must be one of cifar, stl, imagenet, grey, .*; got 'gray'"),
        ("precision", "fp8", "precision must be one of auto, fp32, bf16, fp16"),
        ("batch_size", 1, "batch_size must be 2 or more"),
        ("epochs", 0, "epochs must be 1 or more; got 0"),
        ("max_steps", 0, "max_steps must be 1 or more"),
        ("lr", 0.0, "lr must be above 0"),
        ("lr", float("nan"), "lr must be above 0; got nan"),
        ("weight_decay", -1.0, "weight_decay must be 0 or more"),
        ("seed", -1, "seed must be 0 or more"),
        ("tracker", "mlflow", "tracker must be one of tensorboard, trackio, wandb"),
    ],
)
def test_a_value_out_of_bounds_is_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        PretrainConfig(**{field: value})


def test_resume_and_overwrite_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        PretrainConfig(resume=True, overwrite=True)


def test_the_run_folder_names_the_model():
    config = PretrainConfig(backbone="resnet50", projector_dim=64, views=8)
    assert config.run_folder.as_posix() == "runs/resnet50-bt-p64-aug8"
    assert PretrainConfig(output="elsewhere").run_folder.as_posix() == "elsewhere"


def test_the_configuration_is_plain_json():
    config = PretrainConfig(loss="vicreg", max_steps=3)
    assert PretrainConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_every_field_is_a_documented_flag():
    help_text = subprocess.run(
        [sys.executable, "-m", "effssl.cli", "pretrain", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "400"},
    ).stdout
    for field in dataclasses.fields(PretrainConfig):
        flag = "--" + field.name.replace("_", "-")
        line = help_text.split(flag, 1)[1].split("--", 1)[0]
        documented = line.split("(default")[0].replace("│", "").split()
        assert len(documented) >= 4, f"{flag}: {line}"

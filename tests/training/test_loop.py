"""pretrain: any backbone, the same weights after an interruption, one process or two."""

import json
import os
import sys

import forked
import pytest
import torch
from forked import Forked
from runs import TINY, Killed, kill, launch, metrics, tiny, torchrun

import effssl
from effssl import PretrainConfig, cli
from effssl.loss_specs import LOSSES
from effssl.optim import create_optimizer
from effssl.training._run_folder import check_run_folder

BACKBONES = {
    "resnet18": {},
    "resnet50": {},
    "resnet18_cifar": {},
    "convnext_atto": {"patch_size": 2},
    "vit_tiny_patch16_224": {"patch_size": 4},
    "mobilenetv3_small_050": {},
    "efficientnet_b0": {},
    "swin_tiny_patch4_window7_224": {"patch_size": 4},
    "regnety_002": {},
}


@pytest.mark.parametrize(
    "backbone, in_chans",
    [
        # of each backbone one in the default suite
        pytest.param(name, channels, marks=pytest.mark.slow if (i + channels // 2) % 2 else [])
        for i, name in enumerate(BACKBONES)
        for channels in (1, 3)
    ],
)
def test_two_steps_of_any_backbone_give_a_model_that_loads(tmp_path, backbone, in_chans):
    config = tiny(
        tmp_path,
        backbone=backbone,
        in_chans=in_chans,
        preset="cifar" if in_chans == 3 else "grey",
        epochs=1,
        max_steps=2,
        log_every=1,
        **BACKBONES[backbone],
    )
    folder = effssl.pretrain(config)
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2]
    model = effssl.from_pretrained(folder)
    features = model(torch.rand(2, in_chans, 32, 32))
    assert features.shape == (2, model.num_features) and features.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_goes_down(tmp_path, loss):
    narrow = {"projector_dim": 4} if loss == "wmse" else {}  # fewer dimensions than images
    effssl.pretrain(tiny(tmp_path, loss=loss, epochs=8, lr=5e-3, log_every=1, **narrow))
    lines = metrics(tmp_path / "run")
    assert len(lines) == 40 and {"epoch", "lr", "views_per_s"} <= set(lines[0])
    first, last = (sum(line["loss"] for line in part) for part in (lines[:5], lines[-5:]))
    assert last < 0.95 * first


def test_learning_rate_warms_up_and_ends_near_zero(tmp_path):
    effssl.pretrain(tiny(tmp_path, epochs=4, log_every=1))
    rates = [line["lr"] for line in metrics(tmp_path / "run")]
    assert rates[0] == pytest.approx(1e-3 / 3) and max(rates) == pytest.approx(1e-3)
    assert rates[-1] < 0.02 * 1e-3


@pytest.mark.parametrize(
    "moment",
    [
        {"name": "step", "at_step": 1},
        {"name": "_save_checkpoint", "at_step": 5, "before": True},
        {"name": "_save_checkpoint", "at_step": 5},
        {"name": "_save_model", "at_step": 5},
        {"name": "step", "at_step": 7},
        {"name": "_save_checkpoint", "at_step": 15},
    ],
    ids=lambda moment: " ".join(str(value) for value in moment.values()),
)
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, monkeypatch, moment):
    config = {"epochs": 3, "log_every": 1}
    whole = effssl.pretrain(tiny(tmp_path / "whole", **config))
    with monkeypatch.context() as patch:
        kill(patch, **moment)
        with pytest.raises(Killed):
            effssl.pretrain(tiny(tmp_path / "parts", **config))
    again = effssl.pretrain(tiny(tmp_path / "parts", resume=True, **config))

    for name in ("model.safetensors", "projector.safetensors"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()
    assert json.loads((again / "training.json").read_text())["step"] == 15
    a, b = (metrics(tmp_path / run / "run") for run in ("whole", "parts"))
    assert [(line["step"], line["loss"]) for line in a] == [
        (line["step"], line["loss"]) for line in b
    ]


def test_a_run_from_before_a_field_existed_resumes(tmp_path):
    effssl.pretrain(tiny(tmp_path, max_steps=5))
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    del config["streaming"], config["cache_gb"]
    file.write_text(json.dumps(config))
    effssl.pretrain(tiny(tmp_path, max_steps=5, resume=True))


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    folder = effssl.pretrain(tiny(tmp_path))
    before = (folder / "model.safetensors").read_bytes(), metrics(tmp_path / "run")
    assert effssl.pretrain(tiny(tmp_path, resume=True)) == folder
    assert ((folder / "model.safetensors").read_bytes(), metrics(tmp_path / "run")) == before


def test_an_existing_run_is_not_touched_without_being_told(tmp_path):
    effssl.pretrain(tiny(tmp_path, max_steps=1))
    before = metrics(tmp_path / "run")
    with pytest.raises(FileExistsError, match="give resume to go on, overwrite to delete"):
        effssl.pretrain(tiny(tmp_path, max_steps=1))
    with pytest.raises(ValueError, match="another configuration: projector_dim was 16, is 32"):
        effssl.pretrain(tiny(tmp_path, max_steps=1, projector_dim=32, resume=True))
    assert metrics(tmp_path / "run") == before
    effssl.pretrain(tiny(tmp_path, max_steps=1, projector_dim=32, overwrite=True))
    assert metrics(tmp_path / "run") != before


def test_a_folder_of_something_else_is_never_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    for name, content in [("thesis.tex", "years of work"), ("config.json", '{"model": "gpt2"}')]:
        (tmp_path / "run" / name).write_text(content)
        for flags in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(FileExistsError, match="is not a run folder"):
                effssl.pretrain(tiny(tmp_path, **flags))
    with pytest.raises(FileExistsError, match="is a file"):
        effssl.pretrain(tiny(tmp_path, output=str(tmp_path / "run" / "thesis.tex")))


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"backbone": "resnet81"}, ValueError, "unknown backbone 'resnet81'; did you mean"),
        ({"backbone": "convnext_atto", "img_size": 8}, ValueError, "cannot take images of 8 px"),
        ({"optimizer": "adamx"}, ValueError, "unknown optimizer 'adamx'; did you mean"),
        ({"dataset": "./nowhere"}, FileNotFoundError, "no data set at './nowhere'"),
        ({"image_column": "picture"}, ValueError, "image_column 'picture' is not among"),
        ({"batch_size": 41}, ValueError, "batch_size 41 is more than the 40 images"),
        ({"split": "validation"}, ValueError, "validation"),
        ({"in_chans": 2}, ValueError, "in_chans=2"),
    ],
)
def test_bad_input_is_found_before_anything_is_written(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        effssl.pretrain(tiny(tmp_path, **changes))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss is nan \(invariance nan.* at step 11"):
        effssl.pretrain(tiny(tmp_path, optimizer="sgd", lr=1e30, epochs=8))


def test_a_loss_that_is_not_finite_never_reaches_a_checkpoint(tmp_path):
    config = tiny(tmp_path, optimizer="sgd", lr=1e30, epochs=8, log_every=1000)
    with pytest.raises(FloatingPointError, match="lower lr .1e.30.*; no checkpoint"):
        effssl.pretrain(config)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_without_a_terminal_the_log_has_a_line_for_every_epoch(tmp_path, caplog):
    with caplog.at_level("INFO", logger="effssl"):
        effssl.pretrain(tiny(tmp_path, log_every=3))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines if "loss" in line] == [
        "step 5 of 10",
        "step 10 of 10",
    ]
    assert [line["step"] for line in metrics(tmp_path / "run")] == [3, 5, 6, 9, 10]


def test_position_embeddings_norms_and_biases_are_not_decayed():
    model = effssl.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8)
    groups = create_optimizer(model, "adamw", lr=1e-3, weight_decay=0.1).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert "backbone.blocks.0.attn.qkv.weight" in names and "projector.0.weight" in names
    assert not names & {"backbone.pos_embed", "backbone.cls_token", "projector.1.weight"}
    assert not any(name.endswith("bias") for name in names)


def test_mixed_sizes_and_bf16_and_workers_train(tmp_path, image_folder):
    config = tiny(
        tmp_path,
        dataset=str(image_folder),
        split="train",
        in_chans=3,
        precision="bf16",
        workers=1,
        epochs=1,
        log_every=1,
    )
    effssl.pretrain(config)
    assert len(metrics(tmp_path / "run")) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_on_the_gpu_resumes_and_loads(tmp_path, monkeypatch, precision):
    config = {"cpu": False, "precision": precision, "log_every": 1}
    with monkeypatch.context() as patch:
        kill(patch, "step", 7)
        with pytest.raises(Killed):
            effssl.pretrain(tiny(tmp_path, **config))
    folder = effssl.pretrain(tiny(tmp_path, resume=True, **config))
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 11))
    assert effssl.from_pretrained(folder)(torch.rand(2, 1, 32, 32)).isfinite().all()


def test_the_tracker_gets_the_metrics(tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    effssl.pretrain(tiny(tmp_path, tracker="tensorboard", log_every=1))
    events = event_accumulator.EventAccumulator(str(tmp_path / "run" / "effssl"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(1, 11))


def test_two_processes_make_one_run_and_one_set_of_files(tmp_path):
    result = launch(tmp_path, "--log-every", "1", launcher=torchrun(2))
    assert result.returncode == 0, result.stderr
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3]
    assert result.stderr.count("step 3 of 3") == 1
    assert json.loads((tmp_path / "run" / "model" / "training.json").read_text())["processes"] == 2
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoints",
        "config.json",
        "images.json",
        "metrics.jsonl",
        "model",
    ]
    command = ["pretrain", *PretrainConfig.load(tmp_path / "run" / "config.json").flags()]
    again = forked.launch(tmp_path / "again", 2, cli.main, command)
    assert [fork.wait() for fork in again] == [2, 2]
    assert "".join(fork.log() for fork in again).count("effssl: error:") == 1


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"MASTER_PORT": "29500"}, "accelerate launch --cpu does not start more"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "launcher asks for mixed precision 'bf16'"),
    ],
)
def test_a_launch_that_is_not_what_was_asked_for_is_an_error(tmp_path, environment, message):
    config = PretrainConfig(**TINY, output=str(tmp_path / "run"))
    command = ["pretrain", *config.flags()]
    process = Forked(tmp_path / "log", cli.main, command, environment=environment)
    assert process.wait() == 2 and message in process.log()
    assert len(process.log().splitlines()) == 1, process.log()
    assert not (tmp_path / "run").exists()


def test_accelerate_launch_runs_and_names_the_threads_it_took_away(tmp_path):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu"]
    result = launch(tmp_path, launcher=[*launcher, "--num_cpu_threads_per_process", "1"])
    assert result.returncode == 0, result.stderr
    if len(os.sched_getaffinity(0)) > 1:
        assert "using 1 of" in result.stderr


def test_what_a_kill_leaves_of_a_first_config_is_no_run(tmp_path):
    config = tiny(tmp_path)
    config.run_folder.mkdir()
    (config.run_folder / ".config.json.00112233.partial").write_text("{")
    check_run_folder(config)
    (config.run_folder / "photo.jpg").write_text("")
    with pytest.raises(FileExistsError, match="is not a run folder"):
        check_run_folder(config)

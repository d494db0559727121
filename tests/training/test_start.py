"""Runs that go on from weights: what they begin with, what they keep of it, and what they say."""

import json
import shutil

import pytest
import timm
import torch
from PIL import Image
from runs import Killed, assert_equal, kill, metrics, state, tiny
from starts import VIT, save_timms, started_model

import effssl
from effssl import PretrainConfig
from effssl.data.sources import load_source
from effssl.evaluation.knn import knn
from effssl.hub._card import compose_card
from effssl.hub._model_config import read_config
from effssl.hub.push import prepare
from effssl.local import PACKAGED as MODELS
from effssl.training._optim import top_rate

(PACKAGED,) = MODELS
HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "crop_pct": 0.9}
RGB = {"in_chans": 3, "preset": "cifar", "backbone": None}


def test_the_first_features_of_a_timm_model_are_its_own_with_its_own_transform(tmp_path):
    """A ViT with mean and std of 0.5, while the preset of the views has others."""
    cfg = HALF | {"input_size": (3, 32, 32), "fixed_input_size": True, "license": "mit"}
    timms = save_timms(tmp_path / "vit", cfg=cfg, **VIT)
    config = tiny(tmp_path, init=str(tmp_path / "vit"), **RGB)
    parts = started_model(config)
    model = parts.state.model.eval()
    assert parts.config.backbone == "test_vit"
    image = Image.effect_noise((60, 47), 80).convert("RGB")
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(timms))(image)
    ours = effssl.create_transform(model)(image)
    assert torch.equal(ours, theirs)
    with torch.no_grad():
        expected = timms.forward_head(timms.forward_features(theirs[None]), pre_logits=True)
        assert torch.equal(model(ours[None]), expected)
    options = parts.train_step.views[0].options
    assert (options.mean, options.std) == (HALF["mean"], HALF["std"])


@pytest.mark.parametrize("in_chans, img_size, patch_size", [(1, 48, 4), (4, 32, 2), (3, 40, 8)])
def test_channels_patches_and_positions_are_adapted_as_timm_does(
    tmp_path, caplog, in_chans, img_size, patch_size
):
    cfg = {"input_size": (3, 32, 32), "fixed_input_size": True}
    save_timms(tmp_path / "vit", cfg=cfg, **VIT)
    given = {"in_chans": in_chans, "img_size": img_size, "patch_size": patch_size}
    with caplog.at_level("INFO", logger="effssl"):
        config = tiny(tmp_path, init=str(tmp_path / "vit"), **(RGB | given))
        found = started_model(config).state.model.backbone
    local = f"local-dir:{tmp_path / 'vit'}"
    expected = timm.create_model(local, pretrained=True, num_classes=0, **given)
    assert_equal(found.state_dict(), expected.state_dict())
    (line,) = [r.getMessage() for r in caplog.records if "starts from" in r.getMessage()]
    assert "backbone test_vit (adapted: " in line and "fresh projector, since they have" in line


def test_a_model_of_the_package_comes_with_its_projector_and_its_input(tmp_path, caplog):
    packaged = effssl.from_pretrained(PACKAGED)
    with caplog.at_level("INFO", logger="effssl"):
        config = tiny(tmp_path, init=PACKAGED, backbone=None, projector_dim=256)
        parts = started_model(config)
    assert_equal(parts.state.model.state_dict(), packaged.state_dict())
    assert f"starts from {PACKAGED}: backbone test_convnext2, and their projector" in caplog.text
    assert parts.config.backbone == "test_convnext2"
    assert parts.public == {"dataset", "init"}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"projector_dim": 16}, "a fresh projector 16 -> 16 wide, since theirs is 256 -> 256 wide"),
        ({"projector_hidden": 8}, "a fresh projector 8 -> 256 wide, since theirs is 256 -> 256"),
        ({"projector_layers": 1}, "a fresh projector 256 wide, since theirs is 256 -> 256 wide"),
        ({"init_projector": "off"}, "a fresh projector, as init_projector says"),
    ],
)
def test_a_projector_that_does_not_fit_or_is_not_wanted_is_fresh(tmp_path, caplog, changes, said):
    with caplog.at_level("INFO", logger="effssl"):
        given = {"init": PACKAGED, "backbone": None, "projector_dim": 256} | changes
        found = started_model(tiny(tmp_path, **given)).state.model
    assert said in caplog.text
    packaged = effssl.from_pretrained(PACKAGED)
    assert_equal(found.backbone.state_dict(), packaged.backbone.state_dict())
    weights = found.projector[-1].weight
    assert not torch.equal(weights, packaged.projector[-1].weight[: len(weights)])


def test_timms_own_weights_are_those_of_the_flag_pretrained(tmp_path, monkeypatch):
    weights = save_timms(tmp_path / "resnet", "test_resnet", num_classes=0).state_dict()
    asked = []

    def download(repo_id, **options):
        asked.append(repo_id)
        return dict(weights)

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", download)
    first = started_model(tiny(tmp_path, init="timm", in_chans=3, preset="cifar"))
    second = started_model(tiny(tmp_path, pretrained=True, in_chans=3, preset="cifar"))
    assert asked == ["timm/test_resnet.r160_in1k"] * 2
    assert_equal(first.state.model.state_dict(), second.state.model.state_dict())
    assert_equal(dict(first.state.model.backbone.state_dict()), dict(weights))
    cfg = timm.get_pretrained_cfg("test_resnet")
    for parts in (first, second):
        assert parts.train_step.views[0].options.mean == cfg.mean
        assert parts.saved_model.backbone.pretrained_cfg["interpolation"] == cfg.interpolation
        assert parts.saved_model.base.model == "timm/test_resnet.r160_in1k"
        assert parts.saved_model.base.license == cfg.license == "apache-2.0"


@pytest.mark.parametrize(
    "changes, kind, message",
    [
        ({"backbone": "resnet18"}, ValueError, "holds the backbone 'test_convnext2', not 'resnet1"),
        ({"pretrained": True}, ValueError, "pretrained means init timm, and that is 'test_"),
        ({"init": "resnet18"}, ValueError, "give init timm and backbone resnet18 to start fro"),
        ({"init": "runs/nothing-here/x"}, FileNotFoundError, "no model folder 'runs/nothing-here"),
        ({"init": "local-dir:nothing"}, FileNotFoundError, "no model folder 'nothing'"),
        ({"init": "me/private"}, FileNotFoundError, "me/private is not in the cache and HF_HUB_OF"),
        ({"init": "timm", "backbone": "resnet18_cifar"}, ValueError, "has no weights of backbone"),
        ({"init": "timm", "backbone": "resnet81"}, ValueError, "unknown backbone 'resnet81'; did"),
        ({"patch_size": 2}, ValueError, "cannot build .* and load the weights into it: .*stem.0"),
        ({"projector_layers": 1, "projector_hidden": 9}, ValueError, "leave one of them out"),
        ({"freeze_epochs": 2}, ValueError, "leaves none of the 10 steps to train the backbone in"),
        ({"drop_path": 0.1, "backbone": "vgg11", "init": None}, ValueError, "'drop_path': 0.1}: "),
    ],
)
def test_a_start_that_cannot_be_is_one_line(tmp_path, changes, kind, message):
    given = {"init": PACKAGED, "backbone": None} | changes
    with pytest.raises(kind, match=message) as info:
        effssl.pretrain(tiny(tmp_path, **given))
    assert len(str(info.value).splitlines()) == 1
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_weights_of_a_stranger_are_read_as_everywhere(tmp_path):
    shutil.copytree(MODELS[PACKAGED], tmp_path / "m")
    config = tiny(tmp_path, init=str(tmp_path / "m"), backbone=None)
    (tmp_path / "m" / "projector.safetensors").write_bytes(b"\x80\x04\x95")
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        effssl.pretrain(config)
    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="a pickle, which runs whatever code it holds"):
        effssl.pretrain(config)
    about = json.loads((tmp_path / "m" / "config.json").read_text())
    about["model_args"]["checkpoint_path"] = "/etc/passwd"
    (tmp_path / "m" / "config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="model_args may hold"):
        effssl.pretrain(config)


# Resumes, and the run folder


def test_a_resume_needs_the_weights_no_more_and_ends_with_the_same_bits(tmp_path, monkeypatch):
    cfg = HALF | {"input_size": (3, 32, 32), "fixed_input_size": True, "license": "mit"}
    save_timms(tmp_path / "vit", cfg=cfg, **VIT)
    given = RGB | {"init": str(tmp_path / "vit"), "checkpoint_steps": 3, "log_every": 1}
    given |= {"drop_path": 0.3, "layer_decay": 0.7, "freeze_epochs": 1, "evaluate_every": 0}
    effssl.pretrain(tiny(tmp_path / "whole", **given))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, "step", 4)
        effssl.pretrain(tiny(tmp_path / "parts", **given))
    assert not (tmp_path / "parts" / "run" / "model").exists()
    shutil.rmtree(tmp_path / "vit")
    start = tmp_path / "parts" / "run" / "start.json"
    assert json.loads(start.read_text())["frozen"] == ["norm.bias"]
    effssl.pretrain(tiny(tmp_path / "parts", resume=True, **given))
    whole, parts = (tmp_path / name / "run" for name in ("whole", "parts"))
    for key in ("model", "optimizer"):
        assert_equal(state(parts, 10)[key], state(whole, 10)[key])
    assert (parts / "model" / "config.json").read_text() == (
        whole / "model" / "config.json"
    ).read_text()
    found = read_config(parts / "model")
    for key, value in HALF.items():
        value = list(value) if isinstance(value, tuple) else value
        assert found.pretrained_cfg[key] == value
    assert (found.base.model, found.base.license) == ("test_vit", "mit")
    assert found.license == {"license": "mit"}
    # the whole configuration is in the run folder, and makes the same run
    saved = PretrainConfig.load(parts / "config.json")
    assert (saved.backbone, saved.init) == ("test_vit", str(tmp_path / "vit"))
    with pytest.raises(ValueError, match="cannot resume .* init was .* is 'timm'"):
        effssl.pretrain(tiny(tmp_path / "parts", resume=True, **(given | {"init": "timm"})))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"public": "yes"}, "public"),
        ({"frozen": [3]}, "frozen"),
        ({"frozen": ["nothing.bias"]}, "names 'nothing.bias', which the backbone does not have"),
        ({"model": {}}, "start.json: 'architecture' must be a str"),
    ],
)
def test_a_damaged_note_of_the_start_is_one_line(tmp_path, changes, message):
    given = {"init": PACKAGED, "backbone": None, "checkpoint_steps": 1}
    effssl.pretrain(tiny(tmp_path, max_steps=1, **given))
    file = tmp_path / "run" / "start.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        effssl.pretrain(tiny(tmp_path, resume=True, **given))


def test_overwrite_deletes_what_the_earlier_run_went_on_from(tmp_path):
    effssl.pretrain(tiny(tmp_path, init=PACKAGED, backbone=None, max_steps=1))
    assert (tmp_path / "run" / "start.json").exists()
    effssl.pretrain(tiny(tmp_path, overwrite=True, max_steps=1))
    assert not (tmp_path / "run" / "start.json").exists()


def test_a_run_without_a_folder_is_named_after_the_backbone_of_the_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny(tmp_path, init=PACKAGED, backbone=None, output=None, max_steps=1)
    with pytest.raises(ValueError, match="give output to name the run"):
        config.run_folder  # noqa: B018  before the weights are known
    folder = effssl.pretrain(config)
    assert folder.as_posix() == "runs/test_convnext2-bt-p16-aug2/model"


def test_a_pretrained_run_of_an_earlier_version_resumes_with_the_input_it_had(tmp_path):
    """It noted no start, and took mean and std of its preset."""
    given = {"in_chans": 3, "preset": "cifar", "checkpoint_steps": 1}
    effssl.pretrain(tiny(tmp_path, max_steps=1, **given))
    run = tmp_path / "run"
    config = json.loads((run / "config.json").read_text())
    new = ("init", "init_projector", "projector_layers", "projector_hidden", "drop_path")
    for name in (*new, "layer_decay", "freeze_epochs", "grad_checkpointing"):
        del config[name]
    (run / "config.json").write_text(json.dumps(config | {"pretrained": True}))
    effssl.pretrain(tiny(tmp_path, max_steps=2, pretrained=True, resume=True, **given))
    assert read_config(run / "model").pretrained_cfg["mean"] == [0.4914, 0.4822, 0.4465]


# What is published


@pytest.mark.parametrize("init", [PACKAGED, "folder"])
def test_only_weights_that_others_can_load_are_named(tmp_path, init):
    if init == "folder":
        shutil.copytree(MODELS[PACKAGED], tmp_path / "secret")
        init = str(tmp_path / "secret")
    folder = effssl.pretrain(tiny(tmp_path, init=init, backbone=None, max_steps=1))
    training = json.loads((folder / "training.json").read_text())
    named = init == PACKAGED
    assert training["config"]["init"] == (PACKAGED if named else None)
    assert training["config"]["backbone"] == "test_convnext2"
    assert ("--init" in training["command"]) == named
    prepare(folder, "org/m")
    card = (folder / "README.md").read_text()
    assert (" --init path/to/weights" in card) != named
    assert ("those that this training began with are not published" in card) != named
    assert "secret" not in card + json.dumps(training) + (folder / "config.json").read_text()
    name = PACKAGED if named else "test_convnext2-spectral-p256-aug4"
    assert f"from the weights {name}," in " ".join(card.split())
    assert "base_model" not in card and "license: apache-2.0" in card


def test_a_repository_is_the_base_model_of_the_card(tmp_path):
    folder = effssl.pretrain(tiny(tmp_path, init=PACKAGED, backbone=None, max_steps=1))
    about = json.loads((folder / "config.json").read_text())
    about["effssl"]["base"]["model"] = "timm/resnet18.a1_in1k"
    (folder / "config.json").write_text(json.dumps(about))
    card = compose_card(folder, "org/m")
    assert "\nbase_model: timm/resnet18.a1_in1k\n" in card
    assert "from the weights timm/resnet18.a1_in1k," in " ".join(card.split())


def test_a_folder_that_went_on_from_a_folder_keeps_the_base_that_others_know(tmp_path):
    first = effssl.pretrain(tiny(tmp_path / "a", init=PACKAGED, backbone=None, max_steps=1))
    config = tiny(tmp_path / "b", init=str(first.parent), backbone=None, max_steps=1)
    assert read_config(effssl.pretrain(config)).base.model == PACKAGED


# Options for going on from large backbones


def test_the_projector_alone_is_trained_while_the_backbone_is_frozen(tmp_path):
    given = {"freeze_epochs": 1, "checkpoint_steps": 1, "keep_checkpoints": 99, "log_every": 1}
    effssl.pretrain(tiny(tmp_path, evaluate_every=0, **given))
    run = tmp_path / "run"
    weights = [state(run, step)["model"] for step in (1, 5, 6, 10)]

    def changed(a, b):
        return {k.partition(".")[0] for k in a if not torch.equal(a[k], b[k])}

    # batch norm's statistics included
    assert [changed(a, b) for a, b in zip(weights, weights[1:], strict=False)] == [
        {"projector"},
        {"backbone", "projector"},
        {"backbone", "projector"},
    ]
    assert all(line["grad_norm"] > 0 for line in metrics(run))


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext2"])
def test_the_rate_falls_from_the_projector_to_the_stem(tmp_path, backbone):
    config = tiny(tmp_path, backbone=backbone, layer_decay=0.5, max_steps=2, log_every=1)
    parts = started_model(config)
    parts.schedule.step_update(0)
    model, optimizer = parts.state.model, parts.state.optimizer
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    rates = {name: rates[id(p)] for name, p in model.named_parameters() if id(p) in rates}
    top = rates["projector.3.weight"]
    assert top == top_rate(optimizer) == pytest.approx(1e-3)
    layers = timm.models.group_parameters(
        model.backbone, model.backbone.group_matcher(coarse=False), reverse=True
    )
    last = max(layers.values()) + 1
    for name, rate in rates.items():
        layer = layers.get(name.removeprefix("backbone."), last)
        assert rate == pytest.approx(top * 0.5 ** (last - layer)), name
    assert len(set(rates.values())) == last + 1 > 3


def test_the_logged_rate_is_that_of_the_projector(tmp_path):
    effssl.pretrain(tiny(tmp_path, layer_decay=0.5, max_steps=1, log_every=1))
    assert [line["lr"] for line in metrics(tmp_path / "run")] == [1e-3]


@pytest.mark.slow
def test_two_epochs_from_weights_are_worth_more_than_two_from_scratch(tmp_path):
    given = {"epochs": 2, "batch_size": 64, "split": "train[:3000]", "evaluate_every": 0}
    train, test = (
        load_source("fashion-mnist-sample", split, in_chans=1)
        for split in ("train[:3000]", "test[:1000]")
    )
    labels = [torch.tensor(s.dataset[s.label_column]) for s in (train, test)]
    starts = {
        "weights": {"init": PACKAGED, "backbone": None},
        "scratch": {"backbone": "test_convnext2", "patch_size": 4},
    }
    for seed in range(3):
        top1 = {}
        for name, start in starts.items():
            output = tmp_path / f"{name}-{seed}"
            config = tiny(output, seed=seed, projector_dim=256, **given, **start)
            model = effssl.from_pretrained(effssl.pretrain(config))
            a, b = (effssl.extract_features(model, s, workers=0) for s in (train, test))
            top1[name] = knn(a, labels[0], b, labels[1], k=(20,))[20].top1
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.1f}" for name, value in top1.items()))
        assert top1["weights"] > top1["scratch"] + 1


def test_another_size_and_pixels_that_no_patch_holds_are_told(tmp_path, caplog):
    with caplog.at_level("INFO", logger="effssl"):
        given = {"init": PACKAGED, "backbone": None, "projector_dim": 256, "img_size": 64}
        started_model(tiny(tmp_path / "a", **given))
        started_model(tiny(tmp_path / "b", backbone="vit_tiny_patch16_224", img_size=30))
    assert "of images of 32 px, this run is of 64 px: img_size 32 keeps theirs" in caplog.text
    assert "30 px are no multiple of the patch of 16 px: the backbone does not" in caplog.text

"""Model folders: the same features after a reload, and nothing loads by halves."""

import hashlib
import json
import os
import shutil

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import effssl

IMAGES = torch.rand(2, 3, 64, 64)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder and the model it was saved from."""
    torch.manual_seed(0)
    model = effssl.create_model("test_resnet", projector_dim=8, img_size=32)
    model(torch.rand(8, 3, 32, 32), project=True)  # so that batch norm has statistics to lose
    folder = tmp_path_factory.mktemp("saved") / "model"
    effssl.save_pretrained(model, folder, training={"step": 3})
    return folder, model.eval()


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to break."""
    return shutil.copytree(saved[0], tmp_path / "model")


def test_a_reloaded_model_gives_the_same_bits_whatever_its_memory_format(tmp_path):
    model = effssl.create_model("convnext_atto", in_chans=1, projector_dim=8, img_size=32)
    effssl.save_pretrained(model.to(memory_format=torch.channels_last), tmp_path / "model")
    loaded = effssl.from_pretrained(tmp_path / "model")
    model = model.to(memory_format=torch.contiguous_format).eval()
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
        assert torch.equal(loaded(images, project=True), model(images, project=True))


@pytest.mark.parametrize(
    "backbone, arguments",
    [
        ("swinv2_cr_tiny_ns_224", {"img_size": 64}),  # has tables that are made and not saved
        ("coat_lite_mini", {"img_size": 64}),  # has tensors under two names
    ],
)
def test_what_is_not_in_the_file_is_made_as_timm_makes_it(tmp_path, backbone, arguments):
    model = effssl.create_model(backbone, projector_dim=8, **arguments)
    effssl.save_pretrained(model, tmp_path / "model")
    buffers = {name for name, _ in model.named_buffers()}
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    tied = len(parameters) > len(list(model.parameters()))
    assert tied or buffers - model.state_dict().keys()
    images = torch.rand(2, 3, 64, 64)
    loaded = effssl.from_pretrained(tmp_path / "model")
    assert len(list(loaded.parameters())) == len(list(model.parameters()))
    with torch.no_grad():
        assert torch.equal(loaded(images), model.eval()(images))


def test_the_config_says_what_these_weights_are_and_nothing_of_timms(tmp_path):
    model = effssl.create_model("resnet18", in_chans=1, projector_dim=8, img_size=48)
    training = {"config": {"backbone": "resnet18", "loss": "bt", "projector_dim": 8, "views": 4}}
    effssl.save_pretrained(model, tmp_path / "m", training=training, license="apache-2.0")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    files = config["effssl"].pop("files")
    for name, file in files.items():
        content = (tmp_path / "m" / name).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        assert file == {"bytes": len(content), "sha256": sha256}
    assert files.keys() == {"model.safetensors", "projector.safetensors"}
    assert config == {
        "architecture": "resnet18",
        "num_classes": 0,
        "num_features": 512,
        "model_args": {"in_chans": 1},
        "pretrained_cfg": {
            "architecture": "resnet18",
            "tag": "barlow_p8_aug4",
            "license": "apache-2.0",
            "paper_ids": ["arXiv:2312.10725", "arXiv:2103.03230"],
            "input_size": [1, 48, 48],
            "fixed_input_size": False,
            "pool_size": [7, 7],
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.5],
            "std": [0.5],
            "first_conv": "conv1",
            "classifier": "fc",
            "num_classes": 0,
            "custom_load": False,
        },
        "effssl": {
            "format": 1,
            "name": "resnet18-bt-p8-aug4",
            "projector_dim": 8,
            "background": "white",
        },
    }


def test_a_run_folder_and_timms_prefix_are_taken_too(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "run" / "model")
    (tmp_path / "run" / "config.json").write_text('{"backbone": "test_resnet"}')
    for name in (tmp_path / "run", f"local-dir:{tmp_path / 'run' / 'model'}"):
        assert torch.equal(effssl.from_pretrained(name)(IMAGES), saved[1](IMAGES))


@pytest.mark.parametrize("backbone", ["test_resnet", "repvit_m0_9", "efficientvit_m0"])
def test_a_folder_of_timms_is_a_backbone_without_projector_and_says_so(tmp_path, caplog, backbone):
    model = timm.create_model(backbone, num_classes=7).eval()
    timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True)
    loaded = effssl.from_pretrained(tmp_path / "timm")
    assert "is timm's, not effssl's: a backbone without projector" in caplog.text
    with torch.no_grad():
        model.reset_classifier(0)
        features = model(IMAGES)
        assert torch.equal(loaded(IMAGES), features)
    assert loaded.projector_dim is None
    with pytest.raises(ValueError, match="without a projector"):
        loaded(IMAGES, project=True)
    effssl.save_pretrained(loaded, tmp_path / "again")
    assert torch.equal(effssl.from_pretrained(tmp_path / "again")(IMAGES), features)
    # what is timm's is not replaced
    with pytest.raises(FileExistsError, match="is not a model folder"):
        effssl.save_pretrained(loaded, tmp_path / "timm")


def test_features_come_in_eval_mode_without_gradients(saved):
    model = effssl.from_pretrained(saved[0])
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert torch.equal(model(IMAGES), saved[1](IMAGES))


def test_with_classes_it_is_a_timm_model_to_train(saved):
    model = effssl.from_pretrained(saved[0], num_classes=10)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert isinstance(model, timm.models.resnet.ResNet)
    model.eval()
    with torch.no_grad():
        assert model(IMAGES).shape == (2, 10)
        features = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
        assert torch.equal(features, saved[1](IMAGES))


def test_saving_again_replaces_all_but_the_card(folder):
    (folder / "README.md").write_text("written by hand")
    (folder / "linear_probe.safetensors").write_text("of the weights before")
    model = effssl.create_model("resnet18_cifar", projector_dim=4, img_size=32)
    effssl.save_pretrained(model, folder)
    assert (folder / "README.md").read_text() == "written by hand"
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "projector.safetensors",
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
    assert effssl.from_pretrained(folder).num_features == 512


def test_a_colleague_can_read_what_the_umask_lets_them(saved, tmp_path):
    before = os.umask(0o027)
    try:
        effssl.save_pretrained(saved[1], tmp_path / "m")
    finally:
        os.umask(before)
    rights = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "m").iterdir()}
    assert rights == dict.fromkeys(
        ("config.json", "model.safetensors", "projector.safetensors"), 0o640
    )


def test_a_folder_of_something_else_is_never_replaced(tmp_path, saved):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not a model folder"):
        effssl.save_pretrained(saved[1], tmp_path)
    assert (tmp_path / "thesis.tex").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"backbone": "resnet18", "views": 4}')
    with pytest.raises(FileExistsError, match="is not a model folder"):
        effssl.save_pretrained(saved[1], tmp_path / "run")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "projector.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        effssl.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "projector.safetensors"])
@pytest.mark.parametrize("kept", [0, 5, 300])
def test_a_truncated_file_is_named(folder, name, kept):
    path = folder / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=name):
        effssl.from_pretrained(folder)


def test_tensors_that_lack_are_too_many_or_of_another_shape_are_named(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    broken = dict(weights)
    broken["head.new"] = torch.zeros(1)
    del broken["bn1.weight"]
    broken["conv1.0.weight"] = torch.zeros(2, 2)
    save_file(broken, path)
    with pytest.raises(ValueError) as caught:
        effssl.from_pretrained(folder)
    message = str(caught.value)
    assert "lacks bn1.weight" in message and "has unknown 'head.new'" in message
    assert "conv1.0.weight is 2x2, not " in message


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["effssl"].update(format=99), "this effssl reads format 1, not 99"),
        (lambda c: c["effssl"].update(projector_dim=9), "does not fit the model of config.json"),
        (lambda c: c.update(architecture="resnet81"), "unknown architecture 'resnet81'"),
        (lambda c: c.update(architecture=["resnet18"]), "'architecture' must be a str"),
        (lambda c: c.update(model_args={"patch_size": 3}), "cannot build backbone.*patch_size"),
    ],
)
def test_a_foreign_or_contradictory_config_is_named(folder, change, message):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        effssl.from_pretrained(folder)


def test_no_folder_and_no_classes_are_named(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="no model folder"):
        effssl.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="num_classes must be 1 or more"):
        effssl.from_pretrained(saved[0], num_classes=0)

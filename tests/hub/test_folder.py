"""Model folders: the same features after a reload, in timm alone too; nothing loads by halves."""

import json
import shutil
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import effssl

IMAGES = torch.rand(2, 3, 32, 32)
ARCHITECTURES = {
    "resnet18_cifar": {},
    "convnext_atto": {"patch_size": 2},
    "vit_tiny_patch16_224": {"patch_size": 8, "img_size": 32},
    "mobilenetv3_small_050": {},
}


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


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("backbone", ARCHITECTURES)
def test_a_reloaded_model_gives_the_same_bits(tmp_path, backbone, in_chans):
    arguments = {"img_size": 32} | ARCHITECTURES[backbone]
    model = effssl.create_model(backbone, in_chans=in_chans, projector_dim=8, **arguments)
    model = model.to(memory_format=torch.channels_last)
    effssl.save_pretrained(model, tmp_path / "model")
    loaded = effssl.from_pretrained(tmp_path / "model")
    images = torch.rand(2, in_chans, 32, 32)
    model = model.to(memory_format=torch.contiguous_format).eval()
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
        assert torch.equal(loaded(images, project=True), model(images, project=True))
        alone = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
        assert torch.equal(alone(images), model(images))


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


def test_timm_alone_loads_and_fine_tunes_without_effssl(saved):
    code = (
        "import sys; sys.modules['effssl'] = None\n"
        "import timm, torch\n"
        f"m = timm.create_model('local-dir:{saved[0]}', pretrained=True, num_classes=10)\n"
        "assert m(torch.rand(2, 3, 32, 32)).shape == (2, 10)\n"
        "print(timm.data.resolve_model_data_config(m))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "'input_size': (3, 32, 32)" in result.stdout and "0.5, 0.5, 0.5" in result.stdout


def test_saving_again_replaces_the_folder_whole(folder):
    model = effssl.create_model("resnet18_cifar", projector_dim=4, img_size=32)
    effssl.save_pretrained(model, folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "projector.safetensors",
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
    assert effssl.from_pretrained(folder).num_features == 512


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
    assert "lacks bn1.weight" in message and "has unknown head.new" in message
    assert "conv1.0.weight is 2x2, not " in message


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("effssl"), "has no 'effssl' object.*timm.create_model"),
        (lambda c: c["effssl"].update(format=99), "has format 99; this effssl reads format 1"),
        (lambda c: c["effssl"].update(projector_dim=-1), "projector_dim must be 1 to 65536"),
        (lambda c: c["effssl"].update(projector_dim=9), "does not fit the model of config.json"),
        (lambda c: c.update(architecture="resnet81"), "unknown architecture 'resnet81'"),
        (lambda c: c.update(architecture=["resnet18"]), "'architecture' must be a str"),
        (lambda c: c.update(model_args={"patch_size": 3}), "cannot build backbone.*patch_size"),
        (lambda c: c.update(model_args={"checkpoint_path": "x.pth"}), "not {'checkpoint_path'"),
        (lambda c: c.update(model_args={"in_chans": "3"}), "not {'in_chans': '3'}"),
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

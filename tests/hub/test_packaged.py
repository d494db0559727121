"""The model in the package: loads by its name, without a network, and does what its card says."""

import re
import statistics

import pytest
import timm
import torch
from safetensors.torch import load_file

import effssl
from effssl.cli import main
from effssl.data import load_source
from effssl.evaluation import extract_features, knn
from effssl.hub._folder import read_training
from effssl.hub.pull import find_model

NAME = "test_convnext2-spectral-p256-aug4-fashion-mnist-sample"


def test_it_is_small_and_whole():
    folder = find_model(NAME)
    files = {file.name: file.stat().st_size for file in folder.iterdir()}
    assert sum(files.values()) < 5e6
    assert {"model.safetensors", "projector.safetensors", "README.md", "config.json"} <= set(files)
    assert effssl.from_pretrained(NAME).projector_dim == 256


def test_its_features_are_as_good_as_its_card_says():
    model = effssl.from_pretrained(NAME)
    train, test = (
        load_source("fashion-mnist-sample", split, in_chans=1)
        for split in ("train[:2000]", "test[:500]")
    )
    probe = load_file(find_model(NAME) / "linear_probe.safetensors")
    of_test, labels = extract_features(model, test), torch.tensor(test.labels())
    top1 = (of_test @ probe["weight"].T + probe["bias"]).argmax(1).eq(labels).float().mean()
    (evaluation,) = read_training(find_model(NAME))["evaluation"]
    said = evaluation["top1"]["pretrained"]
    # 500 images have a standard error of 1.6 points
    assert 100 * top1.item() == pytest.approx(statistics.mean(said["linear"]), abs=4)
    of_train = extract_features(model, train)
    voted = knn(of_train, torch.tensor(train.labels()), of_test, labels, k=(20,))[20].top1
    assert statistics.mean(said["k-NN 20"]) - 8 < voted <= 100  # a fifth of the images vote


def test_the_other_libraries_and_fine_tuning_take_it():
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    ours = effssl.from_pretrained(NAME)(images)
    theirs = timm.create_model(f"local-dir:{find_model(NAME)}", pretrained=True, num_classes=0)
    assert torch.equal(theirs.eval()(images), ours)
    assert effssl.from_pretrained(NAME, num_classes=3)(images).shape == (2, 3)


def test_a_folder_of_its_name_is_preferred(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = effssl.create_model("test_resnet", projector_dim=8)
    effssl.save_pretrained(mine, NAME)
    assert effssl.from_pretrained(NAME).projector_dim == 8


def test_the_command_line_lists_it_and_takes_its_name(tmp_path, capsys):
    main(["list", "*-aug4-*"])
    assert capsys.readouterr().out.splitlines() == [NAME]
    main(["features", NAME, "--split", "test[:20]", "--output", str(tmp_path / "x.safetensors")])
    assert load_file(tmp_path / "x.safetensors")["features"].shape == (20, 128)
    with pytest.raises(SystemExit):
        main(["evaluate", NAME[:-1]])
    assert re.search(f"no model folder .* the package has {NAME}", capsys.readouterr().err)

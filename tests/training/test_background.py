"""Runs on transparent images, and what is made of their models."""

import dataclasses
import importlib
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from runs import TINY, Killed, assert_equal, kill, metrics, state
from safetensors.torch import load_file

import effssl
from effssl import PretrainConfig, cli
from effssl.data import decode_image, load_source
from effssl.evaluation import finetune
from effssl.evaluation._extraction import Extraction
from effssl.hub._folder import read_training
from effssl.report._gallery import draw_sample

RUN = {k: v for k, v in TINY.items() if k != "split"}
RUN |= {"in_chans": 3, "epochs": 1, "log_every": 1, "evaluate_every": 0}
ORANGE = "#ff8800"


def clip_art(folder, count=16):
    """Drawings of two classes on nothing: black all over where transparency is dropped."""
    for i in range(count):
        target = folder / "ab"[i % 2]
        target.mkdir(parents=True, exist_ok=True)
        rgba = np.zeros((40, 44, 4), np.uint8)
        rgba[5 : 10 + i, 5 : 30 + 6 * (i % 2), 3] = 255 - 5 * i
        Image.fromarray(rgba).save(target / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return clip_art(tmp_path_factory.mktemp("art") / "images")


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    effssl.pretrain(
        PretrainConfig(**RUN, dataset=str(images), background=ORANGE, output=str(output))
    )
    return output


def test_the_background_is_kept_with_run_model_and_record(run, tmp_path):
    assert json.loads((run / "config.json").read_text())["background"] == ORANGE
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["effssl"]["background"] == ORANGE
    assert "background" not in config["pretrained_cfg"]
    training = read_training(run / "model")
    assert training["config"]["background"] == ORANGE
    assert f"--background '{ORANGE}'" in training["command"]
    for model in (effssl.from_pretrained(run), effssl.from_pretrained(run, num_classes=3)):
        assert effssl.create_transform(model).background == ORANGE
    effssl.save_pretrained(effssl.from_pretrained(run), tmp_path / "again")
    assert effssl.from_pretrained(tmp_path / "again").background == ORANGE
    assert draw_sample(PretrainConfig.load(run / "config.json"), None, 4).source.background == (
        ORANGE
    )


def test_features_are_those_of_the_background_of_the_training(run, images, tmp_path):
    model, source = effssl.from_pretrained(run), load_source(str(images))
    features = effssl.extract_features(model, source)
    transform = effssl.create_transform(model)
    files = [row["image"]["path"] for row in source.dataset]
    alone = torch.stack([transform(Image.open(file)) for file in files])
    torch.testing.assert_close(features, model(alone), atol=1e-4, rtol=1e-3)
    laid = torch.stack([transform(decode_image(file, 3, background=ORANGE)) for file in files])
    torch.testing.assert_close(alone, laid, atol=0.05, rtol=0)
    other = load_source(str(images), background="white")
    of_white = effssl.extract_features(model, other)
    assert not torch.allclose(of_white, features, atol=1e-2)
    for more, expected in (([], features), (["--background", "white"], of_white)):
        file = tmp_path / f"{len(more)}.safetensors"
        cli.main(["features", str(run), "--output", str(file), "--cpu", *more])
        torch.testing.assert_close(load_file(file)["features"], expected)
    options = (None, False, None, 8, "fp32", 0)
    prints = {Extraction(model, s, *options).fingerprint() for s in (source, other)}
    assert len(prints) == 2  # a file of one is not gone on with for the other


def test_fine_tuning_and_evaluate_take_the_background_of_the_model(
    run, images, tmp_path, monkeypatch, capsys
):
    module = importlib.import_module("effssl.evaluation.finetune")  # a function has its name
    original, found = module.cache_images, []

    def cached(source, *arguments, **options):
        found.append(source.background)
        return original(source, *arguments, **options)

    monkeypatch.setattr(module, "cache_images", cached)
    source = load_source(str(images))
    finetune(effssl.from_pretrained(run), source, source, epochs=1)
    assert found == [ORANGE]
    file, command = tmp_path / "x.json", ["evaluate", str(run), "--protocols", "spectrum", "--cpu"]
    command += ["--test-split", "train", "--json", str(file)]
    alphas = []
    for more in ([], ["--background", ORANGE], ["--background", "drop"]):
        cli.main([*command, *more])
        alphas.append(json.loads(file.read_text())["spectrum"]["features"]["eigenvalue"])
    assert alphas[0] == alphas[1] != alphas[2]
    capsys.readouterr()


def test_views_are_drawn_on_the_background(images, tmp_path, capsys):
    means = {}
    for background in ("white", "black"):
        picture = tmp_path / f"{background}.png"
        flags = ["--dataset", str(images), "--img-size", "32", "--images", "2"]
        flags += ["--preset", "grey", "--output", str(picture), "--background", background]
        cli.main(["views", *flags])
        with Image.open(picture) as image:
            means[background] = np.asarray(image.convert("L"), float).mean()
    assert means["white"] > means["black"] + 50


def forget(run):
    """Make a run one of a version that had no background."""
    file = run / "config.json"
    values = json.loads(file.read_text())
    del values["background"]
    file.write_text(json.dumps(values))


def test_a_run_from_before_goes_on_as_it_began(tmp_path, caplog, monkeypatch):
    images = clip_art(tmp_path / "images", 24)
    config = PretrainConfig(**RUN | {"epochs": 2}, dataset=str(images), background="drop")
    whole, stopped = (
        dataclasses.replace(config, output=str(tmp_path / name)) for name in ("whole", "stopped")
    )
    effssl.pretrain(whole)
    kill(monkeypatch, "step", 4)  # after the checkpoint of step 3
    with pytest.raises(Killed):
        effssl.pretrain(stopped)
    monkeypatch.undo()
    forget(tmp_path / "stopped")
    again = dataclasses.replace(stopped, resume=True)
    with pytest.raises(ValueError, match="background was 'drop', is 'black'"):
        effssl.pretrain(dataclasses.replace(again, background="black"))
    with caplog.at_level(logging.INFO):
        effssl.pretrain(dataclasses.replace(again, background="white"))  # the default
    assert sum("of a version that dropped transparency" in m for m in caplog.messages) == 1
    assert_equal(state(tmp_path / "stopped", 6)["model"], state(tmp_path / "whole", 6)["model"])
    assert PretrainConfig.load(tmp_path / "stopped" / "config.json").background == "drop"
    assert effssl.from_pretrained(tmp_path / "stopped").background == "drop"
    assert len(metrics(tmp_path / "stopped")) == 6


def test_a_run_is_not_resumed_on_another_background(tmp_path):
    images = clip_art(tmp_path / "images", 16)
    config = PretrainConfig(**RUN, dataset=str(images), output=str(tmp_path / "run"))
    effssl.pretrain(config)
    changed = dataclasses.replace(config, resume=True, background="drop")
    with pytest.raises(ValueError, match="background was 'white', is 'drop'"):
        effssl.pretrain(changed)


def test_a_model_from_before_drops_transparency_as_its_training_did(run, tmp_path):
    effssl.save_pretrained(effssl.from_pretrained(run), tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    config = json.loads(file.read_text())
    del config["effssl"]["background"]
    file.write_text(json.dumps(config))
    model = effssl.from_pretrained(tmp_path / "m")
    assert model.background == effssl.create_transform(model).background == "drop"
    for wrong in (3, "wite", "", None, ["white"]):
        config["effssl"]["background"] = wrong
        file.write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"config.json: background must be"):
            effssl.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize(
    "read", [{}, {"cache_gb": 0.0, "workers": 0}, {"cache_gb": 0.0, "workers": 1}]
)
def test_images_of_one_color_are_named_once_however_they_are_read(tmp_path, caplog, read):
    images = clip_art(tmp_path / "images", 16)
    config = PretrainConfig(**RUN | {"epochs": 3}, dataset=str(images), background="black", **read)
    effssl.pretrain(dataclasses.replace(config, output=str(tmp_path / "run")))
    (said,) = [m for m in caplog.messages if "constant" in m]
    assert (
        said.startswith("16 of 16 images (100.0 %) are one constant color") and ".png (row" in said
    )
    caplog.clear()
    white = dataclasses.replace(config, background="white", output=str(tmp_path / "white"))
    effssl.pretrain(white)
    assert not [m for m in caplog.messages if "constant" in m]


def test_images_of_one_color_in_a_stream_are_named(tmp_path, caplog):
    rows = load_source(str(clip_art(tmp_path / "images", 16))).dataset
    rows.to_parquet(tmp_path / "rows.parquet")
    config = PretrainConfig(**RUN, dataset=str(tmp_path / "rows.parquet"), streaming=True)
    config = dataclasses.replace(config, background="drop", output=str(tmp_path / "run"))
    effssl.pretrain(config)
    (said,) = [m for m in caplog.messages if "constant" in m]
    assert "16 of 16 images" in said and "shard 0, row" in said

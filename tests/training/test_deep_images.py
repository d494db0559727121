"""Runs on images of 12 bits, and what is made of their models."""

import dataclasses
import importlib
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from runs import TINY, metrics
from safetensors.torch import load_file

import effssl
from effssl import PretrainConfig, cli
from effssl.data import _cache, decode_image, load_source
from effssl.evaluation import finetune
from effssl.evaluation._extraction import Extraction
from effssl.hub._card_content import card_content
from effssl.hub._folder import read_record
from effssl.hub._model_config import read_config
from effssl.report._gallery import draw_sample

RUN = {k: v for k, v in TINY.items() if k != "split"} | {"epochs": 1, "log_every": 1}


def write(folder, count, high=1000, size=(40, 44)):
    """Images of two classes, dark and darker, in 16-bit files."""
    for i in range(count):
        target = folder / ("a" if i % 2 else "b")
        target.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, high // (1 + i % 2), size)
        Image.fromarray(pixels.astype(np.uint16)).save(target / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write(tmp_path_factory.mktemp("deep") / "images", 40)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """A run whose range was found."""
    output = tmp_path_factory.mktemp("runs") / "run"
    effssl.pretrain(
        PretrainConfig(**RUN, dataset=str(images), value_range="auto", output=str(output))
    )
    return output


def saved_range(run):
    return json.loads((run / "config.json").read_text())["value_range"]


def test_the_range_that_was_found_is_kept_with_run_model_and_record(run, images):
    low, high = saved_range(run)
    assert 0 <= low < 5 and 990 < high < 1000
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["effssl"]["value_range"] == [low, high]
    assert "value_range" not in config["pretrained_cfg"]
    training = json.loads((run / "model" / "training.json").read_text())
    assert training["config"]["value_range"] == [low, high]
    assert f"--value-range {low} {high}" in training["command"]
    assert PretrainConfig.load(run / "config.json").value_range == (low, high)
    for model in (
        effssl.from_pretrained(run),
        effssl.from_pretrained(run / "model", num_classes=3),
    ):
        assert effssl.create_transform(model).value_range == (low, high)
    card = card_content(read_config(run / "model"), read_record(run / "model"), "me/model", None)
    assert (
        f"stored values from {low:g} to {high:g} mapped to 0 to 1"
        in dict(card["facts"])["Transform"]
    )
    again = run.parent / "saved-again"
    effssl.save_pretrained(effssl.from_pretrained(run), again)
    assert effssl.from_pretrained(again).value_range == (low, high)


def test_the_transform_maps_what_it_is_given_as_the_training_did(run, images):
    transform = effssl.create_transform(effssl.from_pretrained(run))
    file = images / "a" / "001.png"
    stored = np.asarray(Image.open(file))
    mapped = decode_image(str(file), 1, value_range=tuple(saved_range(run)))
    assert mapped.max() > 120 > 8 * decode_image(str(file), 1).max()
    expected = transform(Image.fromarray(mapped[0]))  # 8 bits of 0 to 255: mapped as well
    assert not torch.allclose(expected, transform(mapped), atol=0.5)
    expected = transform(mapped)  # pixels of decode_image are mapped already
    image = Image.open(file)
    assert image.mode == "I;16" and (transform(image) - expected).abs().max() < 0.04
    for dtype in (np.uint16, np.int16, np.int32, np.float32, np.float64, ">u2"):
        assert torch.equal(transform(stored[None].astype(dtype)), expected)
    assert torch.equal(transform(torch.from_numpy(stored.astype(np.int32))), expected)
    assert "value_range=" in repr(transform)


def test_a_model_without_a_range_refuses_deep_arrays_still(images):
    transform = effssl.create_transform(effssl.create_model("test_resnet", in_chans=1))
    with pytest.raises(ValueError, match="uint16 pixels of shape"):
        transform(np.zeros((1, 40, 40), np.uint16))


def test_features_are_those_of_mapped_images_without_being_told(run, images, tmp_path):
    model, source = effssl.from_pretrained(run), load_source(str(images), in_chans=1)
    assert source.value_range is None
    features = effssl.extract_features(model, source)
    transform = effssl.create_transform(model)
    paths = [row["image"]["path"] for row in source.dataset]
    alone = torch.stack([transform(Image.open(path)) for path in paths])
    torch.testing.assert_close(features, model(alone), atol=1e-4, rtol=1e-3)
    other = dataclasses.replace(source, value_range=(0.0, 65535.0))
    assert not torch.allclose(effssl.extract_features(model, other), features, atol=1e-2)
    file = tmp_path / "x.safetensors"
    cli.main(["features", str(run), "--output", str(file), "--cpu"])
    torch.testing.assert_close(load_file(file)["features"], features)
    file = tmp_path / "y.safetensors"
    full = ["--value-range", "0", "65535"]  # for images that are stored in another way
    cli.main(["features", str(run), "--output", str(file), "--cpu", *full])
    of_other = effssl.extract_features(model, other)
    torch.testing.assert_close(load_file(file)["features"], of_other)
    views = effssl.MultiView("grey", views=2, size=32)
    of_views = effssl.extract_features(model, source, views=views)
    own = load_source(str(images), in_chans=1, value_range=model.value_range)
    assert torch.equal(of_views, effssl.extract_features(model, own, views=views))
    assert not torch.allclose(of_views, effssl.extract_features(model, other, views=views))


def test_a_feature_file_of_another_range_is_not_gone_on_with(run, images, tmp_path):
    model, source = effssl.from_pretrained(run), load_source(str(images), in_chans=1)

    def fingerprint(source):
        options = (None, False, None, 8, "fp32", 0)
        return Extraction(model, source, *options).fingerprint()

    same = dataclasses.replace(source, value_range=model.value_range)
    assert fingerprint(source) == fingerprint(same)
    assert fingerprint(dataclasses.replace(source, value_range=(0, 9))) != fingerprint(source)


def test_fine_tuning_and_evaluate_map_by_the_range_of_the_model(
    run, images, tmp_path, monkeypatch, capsys
):
    ranges = []
    original = _cache.cache_images

    def cached(source, *arguments, **options):
        ranges.append(source.value_range)
        return original(source, *arguments, **options)

    module = importlib.import_module("effssl.evaluation.finetune")  # a function has its name
    monkeypatch.setattr(module, "cache_images", cached)
    source = load_source(str(images), in_chans=1)
    finetune(effssl.from_pretrained(run), source, source, epochs=1)
    assert ranges == [tuple(saved_range(run))]
    file = tmp_path / "found.json"
    splits = ["--train-split", "train", "--test-split", "train"]
    cli.main(["evaluate", str(run), *splits, "--protocols", "knn", "--cpu", "--json", str(file)])
    capsys.readouterr()
    top1 = json.loads(file.read_text())["top1"]
    # by their brightness classes can be told apart, which 4 gray levels of 256 would not show
    assert top1["raw pixels"]["k-NN 5"][0] > 90


def test_the_gallery_of_a_report_shows_mapped_images(run):
    sample = draw_sample(PretrainConfig.load(run / "config.json"), None, 4)
    assert sample.source.value_range == tuple(saved_range(run))


def test_views_are_drawn_of_mapped_images(images, tmp_path, caplog):
    drawn = {}
    for name, more in {"dark": [], "bright": ["--value-range", "0", "1000"]}.items():
        picture = tmp_path / f"{name}.png"
        flags = ["--dataset", str(images), "--in-chans", "1", "--preset", "grey", "--images", "2"]
        cli.main(["views", *flags, "--img-size", "32", "--output", str(picture), *more])
        with Image.open(picture) as image:
            drawn[name] = np.asarray(image.convert("L"), float)
    assert drawn["bright"].mean() > drawn["dark"].mean() + 5
    assert sum("give --value-range 0 999" in m for m in caplog.messages) == 1


def resumed(run, tmp_path, images, value_range):
    config = PretrainConfig(
        **RUN | {"epochs": 2}, dataset=str(images), output=str(run), resume=True
    )
    return dataclasses.replace(config, value_range=value_range)


def test_a_resume_keeps_the_range_and_refuses_another(tmp_path, caplog):
    images, output = write(tmp_path / "images", 24), tmp_path / "run"
    config = PretrainConfig(**RUN, dataset=str(images), value_range="auto", output=str(output))
    effssl.pretrain(config)
    found = saved_range(output)
    write(images, 24, high=4000)  # in place of the earlier ones: now another range would be found
    caplog.set_level(logging.INFO)
    caplog.clear()
    effssl.pretrain(resumed(output, tmp_path, images, "auto"))
    assert saved_range(output) == found and not any("percentiles" in m for m in caplog.messages)
    assert [line["step"] for line in metrics(output)] == [1, 2, 3, 4, 5, 6]
    for other, shown in [(None, "None"), ((0.0, 2000.0), r"\[0.0, 2000.0\]")]:
        with pytest.raises(ValueError, match=rf"value_range was \[.*\], is {shown}"):
            effssl.pretrain(resumed(output, tmp_path, images, other))
    effssl.pretrain(resumed(output, tmp_path, images, tuple(found)))


def test_a_run_without_a_range_is_not_resumed_with_one(tmp_path):
    images, output = write(tmp_path / "images", 16), tmp_path / "run"
    effssl.pretrain(PretrainConfig(**RUN, dataset=str(images), output=str(output)))
    assert saved_range(output) is None
    config = json.loads((output / "model" / "config.json").read_text())
    assert "value_range" not in config["effssl"]
    with pytest.raises(ValueError, match="value_range was None, is 'auto'"):
        effssl.pretrain(resumed(output, tmp_path, images, "auto"))


def test_signed_numbers_without_a_range_end_the_run_and_name_the_flag(tmp_path):
    for i in range(16):
        np.save(tmp_path / f"{i}.npy", np.full((1, 40, 40), 300 + i, np.int16))
    config = PretrainConfig(**RUN, dataset=str(tmp_path), output=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="int16 from .*--value-range LOW HIGH, or auto"):
        effssl.pretrain(config)
    effssl.pretrain(dataclasses.replace(config, value_range=(300.0, 316.0), max_steps=1))


def test_large_images_are_read_by_a_run_with_a_higher_limit_and_by_what_follows_it(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1024)  # the crops of features have as many
    images, output = write(tmp_path / "images", 16, 60_000, size=(46, 46)), tmp_path / "run"
    config = PretrainConfig(**RUN, dataset=str(images), output=str(output))
    with pytest.raises(ValueError, match="2,048 allowed: --max-pixels 2116 reads it"):
        effssl.pretrain(config)
    effssl.pretrain(dataclasses.replace(config, max_pixels=2116))
    assert metrics(output)[-1]["step"] == 2
    file = tmp_path / "x.safetensors"
    cli.main(["features", str(output), "--output", str(file), "--cpu"])
    assert len(load_file(file)["features"]) == 16
    flags = ["--dataset", str(images), "--output", str(tmp_path / "y.safetensors"), "--cpu"]
    with pytest.raises(SystemExit):
        cli.main(["features", str(output), *flags, "--max-pixels", "2115"])
    assert "2,115 allowed: --max-pixels 2116 reads it" in capsys.readouterr().err
    assert len(draw_sample(PretrainConfig.load(output / "config.json"), None, 4)) == 4

"""The images of a report: views, neighbors and map, and what it says where it has none."""

import base64
import io
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Features
from PIL import Image
from reported_runs import TINY, change_config, evaluate, report, section

import effssl
from effssl.data import load_source
from effssl.report import _gallery as gallery
from effssl.report import _page as page


def picture(text):
    """The first picture of a section."""
    data = re.search(r'src="data:image/\w+;base64,([^"]+)"', text)[1]
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_neighbors_of_another_class_are_marked(whole):
    rows = re.findall(r'<div class="row">(.*?)</div>', section(whole, "neighbors"), re.S)
    assert len(rows) == 12
    marks = set()
    for row in rows:
        query, *others = re.findall(r"<span>(.*?)</span>", row)
        assert len(others) == 8
        for name in others:
            assert name.startswith("≠ ") == (name.removeprefix("≠ ") != query)
            marks.add(name[0])
    assert "≠" in marks and len(marks) > 1


def test_images_that_moved_are_said_to_be_missing_and_found_again(run, image_folder, caplog):
    change_config(run, dataset="nowhere/photos", split="train", in_chans=1)
    text = report(run)
    for name in ("views", "neighbors", "map"):
        assert "images of nowhere/photos cannot be read here" in section(text, name)
    assert "no images in the report: no data set" in caplog.text
    text = report(run, dataset=str(image_folder))
    assert section(text, "neighbors").count('<div class="row">') == 12
    assert "dog (12)" in section(text, "map")
    titles = re.findall(r'alt="(\w+)" title="([^"]+)"', section(text, "neighbors"))
    assert titles and all(re.fullmatch(rf"{name}/\d\d.png", path) for name, path in titles)
    assert str(image_folder.parent) not in section(text, "neighbors")


def test_images_without_a_label_are_of_no_class(tmp_path, image_folder):
    source = load_source(str(image_folder))
    labels = [None if i % 3 else i % 2 for i in range(24)]
    kind = Features(source.dataset.features)
    rows = source.dataset.remove_columns("label").add_column("label", labels).cast(kind)
    found, names = gallery._classes(replace(source, dataset=rows))
    assert found == [-1 if i % 3 else i % 2 for i in range(24)]
    assert names == {-1: "no label", 0: "cat", 1: "dog"}
    rows = rows.remove_columns("label").add_column("label", [-1] * 24).cast(kind)
    assert gallery._classes(replace(source, dataset=rows)) == (None, {})


def test_images_without_labels_are_shown_without_classes(run, image_folder, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for file in image_folder.rglob("*.png"):
        shutil.copy(file, photos)
    (photos / "00.png").write_bytes(b"no image")
    change_config(run, dataset=str(photos), split="train")
    evaluate(run)
    text = report(run)
    assert "no labels" in section(text, "warnings") and "≠" not in section(text, "neighbors")
    assert "23 images, of the model after step 15" in section(text, "map")
    assert "1 that were drawn besides cannot be read" in section(text, "map")
    assert "effssl evaluate copy --protocols spectrum --test-split train" in section(
        text, "evaluation"
    )


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_images_of_any_channels_are_drawn(tmp_path, channels):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        np.save(images / f"{i}.npy", np.full((channels, 20, 24), 80 * i, np.uint8))
    options = {"dataset": str(images), "in_chans": channels, "preset": "multispectral"}
    config = effssl.PretrainConfig(**TINY | options | {"split": "train", "views": 9})
    (tmp_path / "run").mkdir()
    config.save(tmp_path / "run" / "config.json")
    text = report(tmp_path / "run")
    assert "6 of 9 an image" in section(text, "views")
    assert "data:image/" in section(text, "views")


def test_local_views_are_drawn_below_the_others(run):
    alone = section(report(run), "views")
    change_config(run, local_views=7, local_size=16)
    text = section(report(run), "views")
    assert "8 of 9 an image" in text and "of 9 an image" not in alone
    heights = [picture(text).height for text in (alone, text)]
    assert heights[1] > 1.5 * heights[0]


def test_a_stream_has_no_pictures(run):
    change_config(run, streaming=True)
    assert "streamed its images" in section(report(run), "neighbors")


@pytest.mark.parametrize(("width", "images"), [(2, 24), (1, 24), (96, 2), (96, 1)])
def test_narrow_or_few_features_are_drawn_or_said_to_be_too_few(run, monkeypatch, width, images):
    def embed(run, sample):
        made = torch.randn(len(sample), width, generator=torch.Generator().manual_seed(0))
        made[images:] = torch.nan
        return made

    monkeypatch.setattr(page, "_embed", embed)
    text = section(report(run), "map")
    assert ("<svg" in text) == (width > 1 and images > 1)
    assert ("do not span a plane" in text) == (width == 1)
    assert ("1 of 24 images have finite features" in text) == (images == 1)


def test_neighbors_are_the_nearest_others_by_cosine(run):
    config = effssl.PretrainConfig.load(run / "config.json")
    sample = gallery.draw_sample(config, None, 24)
    angles = torch.linspace(0, 1, 24)
    embedded = torch.stack([angles.cos(), angles.sin()], 1) * torch.arange(1, 25)[:, None]
    found = gallery.neighbors(sample, embedded)
    assert len(found) == 12 and len({query for query, _ in found}) == 12
    for query, others in found:
        nearest = sorted(set(range(24)) - {query}, key=lambda i: abs(i - query))
        assert {abs(i - query) for i in others} == {abs(i - query) for i in nearest[:8]}
    labels = [sample.labels[query] for query, _ in found]
    assert labels == sorted(labels) and set(labels) == set(sample.labels)

"""A source is indexed, sliced and iterated: decoded images with their classes."""

import pickle
import re

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from torch.utils.data import DataLoader

from effssl.data import BrokenImage, decode_image, load_source


def folder_of_classes(folder, count=9):
    for i in range(count):
        file = folder / "abc"[i % 3] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        rgba = np.random.default_rng(i).integers(0, 256, (10, 12, 4), np.uint8)
        PILImage.fromarray(rgba).save(file)
    return folder


def test_an_index_gives_the_decoded_image_and_its_class():
    source = load_source("fashion-mnist-sample", in_chans=1)
    assert len(source) == 10_000
    for i in (0, 3, 9_999, -1, np.int64(7), torch.tensor(5)):
        image, label = source[i]
        row = int(i)
        assert image.dtype == torch.uint8 and image.shape == (1, 28, 28)
        expected = decode_image(source.dataset[row]["image"], 1)
        assert np.array_equal(image, expected) and label == source.labels()[row]
        assert type(label) is int


def test_images_are_decoded_as_the_source_says(tmp_path):
    folder = str(folder_of_classes(tmp_path))
    options = {"in_chans": 1, "background": "#ff8800", "value_range": (20.0, 90.0)}
    source = load_source(folder, **options)
    cell = source.dataset[4]["image"]
    expected = decode_image(cell, 1, background="#ff8800", value_range=(20.0, 90.0))
    assert np.array_equal(source[4][0], expected)
    assert not np.array_equal(expected, decode_image(cell, 1))
    with pytest.raises(BrokenImage, match="--max-pixels 120 reads it"):
        load_source(folder, max_pixels=100)[0]


def test_an_index_that_is_not_there_or_no_number_is_an_error():
    source = load_source("fashion-mnist-sample", "test[:20]", in_chans=1)
    for i in (20, -21):
        with pytest.raises(IndexError, match=f"image {i} of 20"):
            source[i]
    for index in ("image", 1.5, None):
        with pytest.raises(TypeError, match="whole number or a slice, not "):
            source[index]


def test_iteration_gives_all_images_in_order(tmp_path):
    source = load_source("fashion-mnist-sample", "test[:150]", in_chans=1)
    found = list(source)
    assert len(found) == 150
    alone = [source[i] for i in range(150)]
    for (image, label), (expected, of) in zip(found, alone, strict=True):
        assert torch.equal(image, expected) and label == of


def test_a_slice_is_a_source_with_the_same_classes(tmp_path):
    source = load_source(str(folder_of_classes(tmp_path)))
    assert source.class_names == ("a", "b", "c")
    part = source[-2:]  # of the class c alone
    assert len(part) == part.num_images == 2 and part.labels() == source.labels()[-2:] == [2, 2]
    assert [label for _, label in part] == [2, 2] and part.class_names == source.class_names
    assert torch.equal(part[0][0], source[7][0])
    assert [len(source[s]) for s in (slice(2, 5), slice(None, None, 2), slice(4, 4))] == [3, 5, 0]
    assert list(source[4:4]) == []


def test_names_that_are_text_are_numbered_in_a_slice_as_in_all(tmp_path):
    rows = {"image": [np.zeros((4, 4), np.uint8)] * 4, "label": ["dog", "cat", None, "dog"]}
    rows["image"] = [PILImage.fromarray(pixels) for pixels in rows["image"]]
    features = Features({"image": Image(), "label": Value("string")})
    source = load_source(Dataset.from_dict(rows, features=features))
    assert [label for _, label in source] == [1, 0, -1, 1]
    assert [label for _, label in source[3:]] == source[3:].labels() == [1]


def test_an_image_without_a_class_has_the_label_minus_one(tmp_path, caplog):
    images = [PILImage.new("L", (8, 8), i) for i in range(3)]
    assert [label for _, label in load_source(images, in_chans=1)] == [-1, -1, -1]
    features = Features({"image": Image(), "label": List(Value("int64"))})
    several = Dataset.from_dict({"image": images, "label": [[1], [2, 3], []]}, features=features)
    with caplog.at_level("INFO"):
        assert [label for _, label in load_source(several, in_chans=1)] == [-1, -1, -1]
    (said,) = [m for m in caplog.messages if "label" in m]
    assert "images come with the label -1" in said and "holds lists" in said


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_takes_a_source(workers):
    source = load_source("fashion-mnist-sample", "train[:40]", in_chans=1)
    assert source.has_classes  # what is known by now goes to workers, too
    loader = DataLoader(
        source,
        16,
        shuffle=True,
        num_workers=workers,
        multiprocessing_context="fork" * workers or None,
    )
    images, labels = zip(*loader, strict=True)
    assert [part.shape for part in images] == [(16, 1, 28, 28), (16, 1, 28, 28), (8, 1, 28, 28)]
    assert sorted(torch.cat(labels).tolist()) == sorted(source.labels())
    assert torch.cat(images).float().mean() == torch.stack([i for i, _ in source]).float().mean()
    assert len(pickle.loads(pickle.dumps(source))) == 40


def test_a_broken_image_is_named_in_one_line(tmp_path):
    folder = folder_of_classes(tmp_path)
    (folder / "a" / "3.png").write_bytes(b"no image")
    source = load_source(str(folder))
    said = re.escape("a/3.png (row 1): not an image of a known format") + "$"
    for read in (lambda: source[1], lambda: list(source), lambda: source.__getitems__([0, 1])):
        with pytest.raises(BrokenImage, match=said) as caught:
            read()
        assert "\n" not in str(caught.value)
    assert source[0][0].shape == source[2][0].shape == (3, 10, 12)


def test_a_stream_is_iterated_and_not_indexed(tmp_path):
    whole = load_source("fashion-mnist-sample", "test", in_chans=1)
    stream = load_source("fashion-mnist-sample", "test", in_chans=1, streaming=True)
    for (image, label), (expected, of), _ in zip(stream, whole, range(70), strict=False):
        assert torch.equal(image, expected) and label == of
    for use in (lambda: stream[0], lambda: len(stream), lambda: stream[:2]):
        with pytest.raises(TypeError, match="a stream has no length and no indices: iterate"):
            use()
    assert stream  # whatever its length

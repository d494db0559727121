"""The sample with its objects moved: the same images everywhere, and what they are made of."""

import gzip
import hashlib
import math
import runpy
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effssl.data import _moved as moved_module
from effssl.data import load_source, move_objects
from effssl.data._fingerprint import Inventory
from effssl.data.sources import is_public
from effssl.local import MOVED_SAMPLE, SAMPLE

ROOT = Path(__file__).parents[2]


def pixels(name, split):
    source = load_source(name, split, in_chans=1)
    return np.stack([image[0].numpy() for image, _ in source])


@pytest.fixture(scope="module")
def aligned():
    return pixels(SAMPLE, "test")


@pytest.fixture(scope="module")
def moved():
    return pixels(MOVED_SAMPLE, "test")


def test_every_machine_has_the_same_pixels(moved):
    train = pixels(MOVED_SAMPLE, "train")
    assert (train.shape, train.dtype) == ((10_000, 32, 32), np.uint8)
    assert moved.shape == (2000, 32, 32)
    found = [hashlib.sha256(split.tobytes()).hexdigest()[:32] for split in (train, moved)]
    assert found == ["e90099b549698036afecaea5110b222f", "8bc73839abaa0e7e79d70790a12c0f5d"]


def test_labels_names_and_order_are_those_of_the_sample():
    for split in ("train", "test", "test[:50]+train[30:40]", "train[99%:]"):
        both = [load_source(name, split, in_chans=1) for name in (SAMPLE, MOVED_SAMPLE)]
        first, second = ((s.labels(), s.class_names, s.split, len(s)) for s in both)
        assert first == second and first[1][9] == "Ankle boot"


def test_an_image_is_the_same_in_any_part_and_order_and_as_a_stream(aligned, moved):
    order = np.random.default_rng(0).permutation(2000)[:300]
    np.testing.assert_array_equal(move_objects(aligned[order]), moved[order])
    np.testing.assert_array_equal(pixels(MOVED_SAMPLE, "test[1900:]"), moved[1900:])
    np.testing.assert_array_equal(pixels(MOVED_SAMPLE, "train[:7]+test[5:8]")[7:], moved[5:8])
    stream = load_source(MOVED_SAMPLE, "test", in_chans=1, streaming=True)
    assert stream.num_images == 2000
    for (image, _), expected in zip(stream, moved[:40], strict=False):
        np.testing.assert_array_equal(image[0], expected)


def test_no_part_of_an_object_leaves_the_image(aligned, moved):
    """The sum of its pixels is that of the original by the square of its size."""
    size = np.array([numbers(image)[0] for image in aligned])
    share = moved.sum((1, 2)) / aligned.sum((1, 2))
    assert np.allclose(share, (0.45 + 0.45 * size) ** 2, rtol=0.005)


def test_sizes_turns_and_places_are_spread_over_all_that_is_allowed(aligned, moved):
    drawn = np.array([numbers(image) for image in aligned])
    for column in drawn.T:  # uniform by the test of Kolmogorov and Smirnov
        steps = np.arange(1, 2001) / 2000
        assert np.abs(np.sort(column) - steps).max() < 1.63 / math.sqrt(2000)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.08
    for axis in (1, 2):
        inked = moved.max(axis) > 0
        first, last = inked.argmax(1), 31 - inked[:, ::-1].argmax(1)
        assert (first.min(), last.max()) == (0, 31)
        assert np.unique(first).size > 20 and np.unique(last).size > 20


def test_an_object_is_resampled_by_the_area_of_its_pixels(aligned, moved):
    """Averages of 16 x 16 points a pixel, each of which lies in a pixel of the original or none."""
    for image, found in zip(aligned[:25], moved[:25], strict=True):
        size, turn, *place = numbers(image)
        scale, angle = 0.45 + 0.45 * size, math.radians(20 * (2 * turn - 1))
        rotation = np.array(
            [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        )  # of (down, across)
        center = 14 * scale + np.array(place) * (32 - 28 * scale)
        inked = scale * rotation @ (np.argwhere(image).T - 13.5) + center[:, None]
        low, high = inked.min(1) - scale / 2, inked.max(1) + scale / 2
        center += np.clip(-low, 0, None) - np.clip(high - 32, 0, None)
        point = (np.mgrid[:512, :512].reshape(2, -1) + 0.5) / 16
        source = rotation.T @ (point - center[:, None]) / scale + 13.5
        row, column = np.rint(source).astype(int) + 1
        padded = np.pad(image, 1).astype(float)
        row, column = np.clip(row, 0, 29), np.clip(column, 0, 29)
        expected = padded[row, column].reshape(32, 16, 32, 16).mean((1, 3))
        assert np.abs(found - expected).max() < 14  # the squares are taken for upright ones


def test_an_object_that_fits_nowhere_gets_the_largest_size_that_does(monkeypatch):
    monkeypatch.setattr(moved_module, "_numbers", lambda image: [1.0, 1.0, 0.5, 0.5])
    square = np.full((1, 28, 28), 200, np.uint8)
    found = move_objects(square)[0]
    angle = math.radians(20)
    across = 27 * (math.cos(angle) + math.sin(angle)) + 1  # from edge to edge, at full size
    assert 0.9 * across > 32
    assert found.sum() / square.sum() == pytest.approx((32 / across) ** 2, rel=0.005)
    for axis in (0, 1):
        assert (found.max(axis) > 0)[[0, 31]].all()


def test_a_black_image_stays_black_and_other_images_are_refused():
    few = np.zeros((3, 28, 28), np.uint8)
    few[1, 9:20, 9:20] = 255
    found = move_objects(few)
    assert not found[[0, 2]].any() and found[1].max() > 250
    assert move_objects(few[:0]).shape == (0, 32, 32)
    for other in (few.astype(float), few[0], few[..., None], few.repeat(2, 1)):
        with pytest.raises(ValueError, match=r"must be uint8, \(N, H, W\), with sides of at most"):
            move_objects(other)


def test_it_is_known_by_its_images_and_published_by_its_name(tmp_path, monkeypatch):
    assert is_public(MOVED_SAMPLE)
    seen = [Inventory(load_source(MOVED_SAMPLE, "train[:40]"), 40) for _ in range(2)]
    digest = seen[0].source.digest()
    assert digest == seen[1].source.digest() == seen[1].digest
    assert digest != load_source(SAMPLE, "train[:40]").digest()
    assert digest != load_source(MOVED_SAMPLE, "train[1:41]").digest()
    prints = [inventory.fingerprint() for inventory in seen]
    assert prints[0] == prints[1] and prints[0].content is not None
    monkeypatch.chdir(tmp_path)
    (tmp_path / MOVED_SAMPLE).mkdir()  # which is not what the name means
    assert load_source(MOVED_SAMPLE, "test[:3]").num_images == 3


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("fashion-mnist-moved", MOVED_SAMPLE),
        ("fashion_mnist_moved_sample", MOVED_SAMPLE),
        ("fashion-mnist", SAMPLE),
        ("FashionMNIST-sampel", None),
    ],
)
def test_a_misspelled_name_is_told_with_the_one_that_is_meant(name, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as info:
        load_source(name)
    said = str(info.value)
    assert f"the package has {SAMPLE} and {MOVED_SAMPLE}" in said
    assert meant is None or f"did you mean {meant!r}? " in said
    (tmp_path / "fashion-mnist").mkdir()
    if meant == MOVED_SAMPLE:
        with pytest.raises(FileNotFoundError, match=f"did you mean '{meant}'"):
            load_source(name)


def test_the_example_moves_the_whole_as_the_sample_is_moved(aligned, moved, tmp_path, monkeypatch):
    labels = np.array(load_source(SAMPLE, "test").labels(), np.uint8)
    for prefix, rows in (("train", slice(0, 30)), ("t10k", slice(30, 50))):
        header = struct.pack(">4i", 2051, 20, 28, 28)
        write_gzip(tmp_path / f"{prefix}-images-idx3-ubyte.gz", header + aligned[rows].tobytes())
        write_gzip(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", bytes(8) + labels[rows].tobytes())
    out = tmp_path / "fashion-mnist-moved"
    flags = [str(out), "--moved", "--source", str(tmp_path), "--per-class", "3", "2"]
    monkeypatch.setattr(sys, "argv", ["x", *flags])
    runpy.run_path(str(ROOT / "examples/fashion_mnist_to_parquet.py"), run_name="__main__")
    first = [np.flatnonzero(labels[:30] == label)[:3] for label in range(10)]
    kept = np.sort(np.concatenate(first))
    np.testing.assert_array_equal(pixels(str(out), "train"), moved[kept])
    assert load_source(str(out)).labels() == labels[kept].tolist()
    assert 0 < len(load_source(str(out), "test")) <= 20


def test_the_picture_in_the_docs_is_of_these_images():
    drawn = runpy.run_path(str(ROOT / "docs/figures/draw_moved.py"))["draw"]()
    with Image.open(ROOT / "docs/figures/fashion-mnist-moved.png") as kept:
        np.testing.assert_array_equal(np.asarray(kept), np.asarray(drawn))
    assert (ROOT / "docs/figures/fashion-mnist-moved.png").stat().st_size < 60_000


def numbers(image):
    """Size, turn, place down and across, from 0 to 1, typed again."""
    digest = hashlib.sha256(b"fashion-mnist-moved 0" + image.tobytes()).digest()
    return [number / 2**64 for number in struct.unpack("<4Q", digest)]


def write_gzip(file, content):
    file.write_bytes(gzip.compress(content))

"""The most pixels of an image: Pillow's, or those given."""

import io
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from effssl.data import load_source
from effssl.data._decode import BrokenImage, decode_image, image_size
from effssl.data._loader import DecodedImages


@pytest.fixture
def small_limit(monkeypatch):
    """Pillow as if all images were a thousand times larger: it refuses more than 2,000 pixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)


def encoded(width, height, format="PNG"):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, format)
    return file.getvalue(), pixels


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM"])
def test_pillow_refuses_and_the_flag_reads(small_limit, format):
    file, pixels = encoded(60, 50, format)
    for read in (decode_image, image_size):
        with pytest.raises(BrokenImage) as caught:
            read(file, 3)
        assert str(caught.value) == (
            "60 x 50 pixels are more than the 2,000 allowed: --max-pixels 3000 reads it"
        )
    with pytest.raises(BrokenImage, match="more than the 2,999 allowed"):
        decode_image(file, 3, max_pixels=2999)
    found = decode_image(file, 3, max_pixels=3000)
    assert found.shape == (3, 50, 60) and image_size(file, 3, max_pixels=3000) == (50, 60)
    if format in ("PNG", "TIFF", "BMP", "PPM"):
        assert np.array_equal(np.moveaxis(found, 0, -1), pixels)
    assert decode_image(file, 3, 20, max_pixels=3000).shape == (3, 20, 24)


def test_an_image_that_pillow_only_warns_of_is_read_without_a_word(small_limit):
    file, pixels = encoded(40, 40)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(file))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(np.moveaxis(decode_image(file, 3), 0, -1), pixels)
        assert image_size(file, 3) == (40, 40)


def test_a_smaller_limit_holds_too_and_for_arrays(small_limit):
    file, pixels = encoded(40, 40)
    for value in (file, pixels):
        with pytest.raises(BrokenImage, match="40 x 40 pixels are more than the 1,599 allowed"):
            decode_image(value, 3, max_pixels=1599)
    large = np.zeros((50, 60), np.uint8)
    with pytest.raises(BrokenImage, match="--max-pixels 3000 reads it"):
        decode_image(large, 1)
    assert decode_image(large, 1, max_pixels=3000).shape == (1, 50, 60)


def test_without_a_limit_of_pillow_there_is_none(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode_image(encoded(60, 50)[0], 3).shape == (3, 50, 60)


def test_the_limit_of_other_threads_stays(small_limit):
    """Nothing of Pillow changes while an image above its limit is read."""
    file, _ = encoded(60, 50)
    refused, stop = [], threading.Event()

    def open_elsewhere():
        while not stop.is_set():
            try:
                Image.open(io.BytesIO(file))
                refused.append(False)
            except Image.DecompressionBombError:
                refused.append(True)

    thread = threading.Thread(target=open_elsewhere)
    thread.start()
    for _ in range(50):
        decode_image(file, 3, max_pixels=3000)
    stop.set()
    thread.join()
    assert refused and all(refused) and Image.MAX_IMAGE_PIXELS == 1000


def test_a_file_that_is_no_image_above_the_limit_either(small_limit):
    file, _ = encoded(60, 50)
    with pytest.raises(BrokenImage, match="truncated|broken"):
        decode_image(file[: len(file) // 2], 3, max_pixels=3000)


def test_a_source_reads_up_to_its_limit(small_limit, tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encoded(60, 50)[0])
    (image,) = DecodedImages(load_source(str(tmp_path)), 99).__getitems__([1])
    assert isinstance(image, BrokenImage) and "1.png" in str(image)
    assert "--max-pixels 3000 reads it" in str(image)
    source = load_source(str(tmp_path), max_pixels=3000)
    assert source.max_pixels == 3000
    (image,) = DecodedImages(source, 99).__getitems__([1])
    assert image.shape == (3, 50, 60)

"""AVIF and HEIF files."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, features

from effssl.data import load_source
from effssl.data._decode import BrokenImage, decode_image, image_size
from effssl.data._loader import DecodedImages


def photo(width=96, height=64):
    small = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def check(file, image):
    pixels = np.moveaxis(decode_image(file, 3), 0, -1).astype(int)
    assert abs(pixels - np.asarray(image)).mean() < 5  # of colors at half the resolution
    assert image_size(file, 3) == (64, 96)
    assert decode_image(file, 1, 32).shape == (1, 32, 48)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_decodes():
    file = io.BytesIO()
    photo().save(file, "AVIF", quality=95)
    check(file.getvalue(), photo())


@pytest.fixture(scope="module")
def heic():
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    try:
        pillow_heif.from_pillow(photo()).save(file, quality=95)
    except RuntimeError as error:
        pytest.skip(f"no encoder: {error}")
    return file.getvalue()


def test_heic_decodes_with_its_extra(heic, tmp_path):
    check(heic, photo())
    photo().save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(heic)  # the content counts, not the name
    images = DecodedImages(load_source(str(tmp_path)), 32).__getitems__([0, 1])
    assert [tuple(image.shape) for image in images] == [(3, 32, 48)] * 2


def test_heic_above_the_limit_of_pixels_names_the_flag(heic):
    with pytest.raises(BrokenImage, match="96 x 64 pixels are more than the 99 allowed"):
        decode_image(heic, 3, max_pixels=99)


def test_without_the_extra_the_reason_names_it(heic, tmp_path):
    (tmp_path / "x.heic").write_bytes(heic)
    program = """
import sys
sys.modules["pillow_heif"] = None  # as if it were not installed
from effssl.data._decode import BrokenImage, decode_image, image_size
for read in (decode_image, image_size):
    try:
        read(sys.argv[1], 3)
    except BrokenImage as error:
        assert str(error) == "a HEIF file: pip install 'effssl[heic]'", error
    else:
        raise AssertionError
"""
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path / "x.heic")]
    subprocess.run(command, check=True, timeout=100)

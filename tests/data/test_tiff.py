"""TIFF files of many channels, and of what Pillow does not read."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from effssl.data import load_source
from effssl.data._decode import BrokenImage, decode_image, image_size, stored_values
from effssl.data._loader import DecodedImages
from effssl.data._pixels import WrongChannels

tifffile = pytest.importorskip("tifffile")


def noise(*shape, dtype=np.uint16, high=None):
    high = high or (256 if dtype == np.uint8 else 10_000)
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def tiff(first, planar="separate", photometric="minisblack", **options):
    """A file of pixels, (C, H, W), with channels in planes or beside each other."""
    stored = first if planar == "separate" else np.ascontiguousarray(np.moveaxis(first, 0, -1))
    file = io.BytesIO()
    tifffile.imwrite(file, stored, planarconfig=planar, photometric=photometric, **options)
    return file.getvalue()


def mapped(values, low, high):
    return np.rint(((values.astype(float) - low) / (high - low) * 255).clip(0, 255))


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("planar", ["separate", "contig"])
def test_thirteen_bands_of_sentinel_2(planar, compression, tile):
    bands = noise(13, 40, 50)
    file = tiff(bands, planar, compression=compression, tile=tile)
    assert np.array_equal(decode_image(file, 13), (bands.astype(int) + 128) // 257)
    found = decode_image(file, 13, value_range=(0, 4000))
    assert np.array_equal(found, mapped(bands, 0, 4000)) and found.flags.writeable
    assert decode_image(file, 13, 20).shape == (13, 20, 25)
    assert image_size(file, 13) == (40, 50)
    values, full = stored_values(file, 13)
    assert np.array_equal(values, bands) and full == 65535


@pytest.mark.parametrize("planar", ["separate", "contig"])
@pytest.mark.parametrize("channels", [2, 5, 6, 8])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_other_numbers_of_channels_and_types(channels, planar, dtype):
    bands = noise(channels, 20, 30, dtype=dtype)
    file = tiff(bands, planar)
    found = decode_image(file, channels, value_range=(50, 200))
    assert np.array_equal(found, mapped(bands, 50, 200))
    if dtype != np.uint8:
        with pytest.raises(BrokenImage, match="--value-range"):
            decode_image(file, channels)


def test_bands_in_pages_of_one_file():
    bands = noise(7, 20, 30, dtype=np.uint8)
    file = io.BytesIO()
    tifffile.imwrite(file, bands, photometric="minisblack", metadata=None)
    assert np.array_equal(decode_image(file.getvalue(), 7), bands)
    assert np.array_equal(decode_image(file.getvalue(), 1), bands[:1])  # as Pillow reads it


def test_a_number_of_channels_that_is_not_asked_for_is_named():
    file = tiff(noise(13, 20, 30))
    for asked in (1, 3, 4, 12):
        with pytest.raises(WrongChannels, match=f"of 13 channels does not have in_chans={asked}"):
            decode_image(file, asked)


@pytest.mark.parametrize("planar", ["separate", "contig"])
def test_near_infrared_is_no_transparency(planar):
    bands = noise(4, 20, 30, dtype=np.uint8)
    for photometric in ("rgb", "minisblack"):
        file = tiff(
            bands, planar, photometric, extrasamples=[0] * (1 if photometric == "rgb" else 3)
        )
        assert np.array_equal(decode_image(file, 4), bands)
        assert np.array_equal(decode_image(file, 3), bands[:3])


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_planes_are_not_taken_for_gray(channels, dtype):
    """Pillow reads the first plane, if the others are said to be of no known meaning."""
    bands = noise(channels, 20, 30, dtype=dtype)
    expected = bands if dtype == np.uint8 else (bands.astype(int) + 128) // 257
    for compression in (None, "lzw"):
        file = tiff(bands, compression=compression, extrasamples=[0] * (channels - 1))
        assert np.array_equal(decode_image(file, channels), expected)
        assert len(np.unique(decode_image(file, 3), axis=0)) == 3


@pytest.mark.parametrize("planar", ["separate", "contig"])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_color_is_mapped_with_all_its_bits(planar, dtype):
    bands = noise(3, 20, 30, dtype=dtype, high=4096)
    file = tiff(bands, planar, "rgb")
    assert np.array_equal(decode_image(file, 3, value_range=(0, 4095)), mapped(bands, 0, 4095))
    assert np.array_equal(stored_values(file, 3)[0], bands)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_those_are_that_pillow_reads(orientation):
    gray = noise(20, 30, dtype=np.uint8)
    options = {"extratags": [(274, "H", 1, orientation, True)], "metadata": None}
    file = io.BytesIO()
    tifffile.imwrite(file, gray, photometric="minisblack", **options)
    expected = decode_image(file.getvalue(), 1)  # by Pillow
    for channels in (2, 3):  # photometric minisblack with 3 channels is not for Pillow
        bands = tiff(np.stack([gray] * channels), **options)
        assert np.array_equal(decode_image(bands, channels), np.repeat(expected, channels, 0))


def test_float_color_that_pillow_does_not_know():
    bands = np.random.default_rng(0).random((3, 20, 30)).astype(np.float32)
    for planar in ("separate", "contig"):
        assert np.array_equal(decode_image(tiff(bands, planar, "rgb"), 3), np.rint(bands * 255))


@pytest.mark.parametrize("end", [4, 100, 0.5, 0.9])
def test_a_damaged_file_is_broken(end):
    for channels in (13, 3):
        file = tiff(noise(channels, 40, 50), compression="lzw")
        cut = file[: end if end > 1 else int(end * len(file))]
        with pytest.raises(BrokenImage) as caught:
            decode_image(cut, channels)
        assert str(caught.value) and "\n" not in str(caught.value)


def test_more_pixels_than_allowed_are_not_read():
    file = tiff(noise(13, 40, 50))
    with pytest.raises(BrokenImage, match="50 x 40 pixels are more than the 1,999 allowed"):
        decode_image(file, 13, max_pixels=1999)


def test_other_files_have_1_3_or_4_channels_still():
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "PNG")
    with pytest.raises(ValueError, match="only TIFF files and arrays may have another") as caught:
        decode_image(file.getvalue(), 13)
    assert not isinstance(caught.value, BrokenImage)


def test_a_folder_of_such_files_is_a_source(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.tif").write_bytes(tiff(noise(13, 20, 30) + i))
    source = load_source(str(tmp_path), in_chans=13, value_range="auto")
    low, high = source.value_range
    assert 0 <= low < 100 and 9900 < high <= 10_001
    images = DecodedImages(source, 10).__getitems__([0, 2])
    assert [tuple(image.shape) for image in images] == [(13, 10, 15)] * 2
    with pytest.raises(ValueError, match="13 channels does not have in_chans=3"):
        load_source(str(tmp_path), in_chans=3)


def test_without_tifffile_the_reason_names_the_extra(tmp_path):
    np.save(tmp_path / "13.npy", np.frombuffer(tiff(noise(13, 20, 30)), np.uint8))
    np.save(tmp_path / "3.npy", np.frombuffer(tiff(noise(3, 20, 30), photometric="rgb"), np.uint8))
    program = """
import sys
import numpy as np
sys.modules["tifffile"] = None  # as if it were not installed
from effssl.data._decode import BrokenImage, decode_image, image_size
many, color = (np.load(f"{sys.argv[1]}/{name}.npy").tobytes() for name in ("13", "3"))
for ask in (
    lambda: decode_image(many, 13),
    lambda: decode_image(many, 3),
    lambda: image_size(many, 13),
    lambda: decode_image(color, 3, value_range=(0, 4095)),
):
    try:
        ask()
    except BrokenImage as error:
        assert "pip install 'effssl[tiff]'" in str(error), error
    else:
        raise AssertionError
try:
    decode_image(color[:-99], 3)
except BrokenImage as error:
    assert "pip" not in str(error), error  # it is the file that is damaged
assert decode_image(color, 3).shape == (3, 20, 30)
"""
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path)]
    subprocess.run(command, check=True, timeout=100)

"""Ranges of stored values: mapped, found in a sample, and missed with a word."""

import io
import logging
import re
import zlib

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow

from effssl.data import _cache, _loader, _suffixes, load_source
from effssl.data._decode import BrokenImage, decode_image
from effssl.data._loader import DecodedImages
from effssl.data._value_range import settle_range
from effssl.data.sources import Source

RNG = np.random.default_rng(0)


def deep(*shape, high=4096, dtype=np.uint16):
    return RNG.integers(0, high, shape).astype(dtype)


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    (Pillow.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        file, format, **options
    )
    return file.getvalue()


def mapped(values, low, high):
    return np.rint(((np.asarray(values, float) - low) / (high - low) * 255).clip(0, 255))


def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return len(data).to_bytes(4, "big") + kind + data + crc.to_bytes(4, "big")


def png16(pixels):
    """A PNG of (H, W, C) in 16 bits, which Pillow reads but does not write."""
    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, kind, 0, 0, 0])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# mapping


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">u2", "i2", "i4", "u4", "i8", "f4", "f8"])
@pytest.mark.parametrize("low, high", [(0, 4095), (-1024, 3071), (17.5, 90), (0, 255)])
def test_arrays_of_any_type_are_mapped_and_clipped(dtype, low, high):
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "ui" else None
    lowest, highest = (-9e4, 9e4) if info is None else (max(info.min, -9e4), min(info.max, 9e4))
    array = RNG.uniform(lowest, highest, (5, 20, 30)).astype(dtype)
    array[0, 0, :2] = np.clip([low, high], lowest, highest)
    pixels = decode_image(array, 5, value_range=(low, high))
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    assert np.array_equal(pixels, mapped(array, low, high))


def test_twelve_bits_keep_all_their_gray_levels():
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for file in (encoded(values), encoded(values, "TIFF")):
        assert len(np.unique(decode_image(file, 1))) == 17  # sixteen steps, and one rounded up
        assert len(np.unique(decode_image(file, 1, value_range=(0, 4095)))) == 256
    pgm = b"P5 64 64 4095\n" + values.astype(">u2").tobytes()
    found = decode_image(pgm, 1, value_range=(0, 4095))
    assert np.array_equal(found[0], mapped(values, 0, 4095))
    assert np.array_equal(decode_image(pgm, 1), found)  # the file says that it has 12 bits
    assert np.array_equal(
        decode_image(pgm, 1, value_range=(1000, 2000))[0], mapped(values, 1000, 2000)
    )


@pytest.mark.parametrize("mode, order", [("I;16", "<u2"), ("I;16B", ">u2"), ("I", "<i4")])
def test_deep_gray_files_are_mapped(mode, order):
    values = deep(20, 30, high=30_000)
    image = Pillow.frombytes(mode, (30, 20), values.astype(order).tobytes())
    found = decode_image(encoded(image, "TIFF"), 3, value_range=(100, 10_000))
    assert np.array_equal(found, np.stack([mapped(values, 100, 10_000)] * 3))


def test_float_files_are_mapped_and_missing_values_become_black():
    values = RNG.normal(300, 50, (20, 30)).astype(np.float32)
    values[3, 4], values[5, 6], values[7, 8] = np.nan, np.inf, -np.inf
    found = decode_image(encoded(values, "TIFF"), 1, value_range=(200, 400))[0]
    assert (found[3, 4], found[5, 6], found[7, 8]) == (0, 255, 0)
    finite = np.isfinite(values)
    assert np.array_equal(found[finite], mapped(values[finite], 200, 400))
    with pytest.raises(BrokenImage, match="every value is NaN"):
        decode_image(np.full((20, 30), np.nan), 1, value_range=(0, 1))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_color_of_png_is_mapped_and_its_transparency_is_not(channels):
    values = deep(20, 30, channels)
    file = png16(values)
    found = decode_image(file, 4, value_range=(0, 4095))
    colors = values if channels == 3 else values[..., :-1]
    colors = np.moveaxis(mapped(np.broadcast_to(colors, (20, 30, 3)), 0, 4095), -1, 0)
    assert np.array_equal(found[:3], colors)
    alpha = np.full((20, 30), 255) if channels == 3 else values[..., -1] >> 8
    assert np.array_equal(found[3], alpha)
    dropped = decode_image(file, 3, value_range=(0, 4095), background="drop")
    assert np.array_equal(dropped, colors)


def test_eight_bits_are_mapped_too_but_not_black_and_white():
    gray, rgba = deep(20, 30, high=256, dtype=np.uint8), deep(20, 30, 4, high=256, dtype=np.uint8)
    assert np.array_equal(
        decode_image(encoded(gray), 1, value_range=(10, 100))[0], mapped(gray, 10, 100)
    )
    found = decode_image(encoded(rgba), 4, value_range=(10, 100))
    assert np.array_equal(found[:3], np.moveaxis(mapped(rgba[..., :3], 10, 100), -1, 0))
    assert np.array_equal(found[3], rgba[..., 3])
    on = gray > 99
    assert np.array_equal(decode_image(encoded(on), 1, value_range=(0, 4095))[0], on * 255)
    assert np.array_equal(decode_image(on, 1, value_range=(0, 4095))[0], on * 255)


@pytest.mark.parametrize(
    "value",
    [
        deep(20, 30, dtype=np.int16) - 9,
        deep(20, 30, dtype=np.int32),
        deep(20, 30, dtype=np.float32),
        encoded(deep(20, 30).astype(np.float32), "TIFF"),
        encoded(deep(20, 30).astype(np.int32) - 1, "TIFF"),
    ],
)
def test_values_that_have_no_range_of_their_own_name_the_flag(value):
    with pytest.raises(BrokenImage, match="--value-range LOW HIGH, or auto, maps other numbers"):
        decode_image(value, 1)
    assert decode_image(value, 1, value_range=(0, 4095)).max() > 200


# the range of a source


@pytest.fixture
def folder(tmp_path):
    """40 images of 12 bits in 16-bit files, with a dead pixel and a hot one in each."""
    (tmp_path / "deep").mkdir()
    for i in range(40):
        values = 100 + deep(64, 64, high=1900)
        values[0, 0], values[5, 5] = 0, 65535
        Pillow.fromarray(values).save(tmp_path / "deep" / f"{i:02}.png")
    return tmp_path / "deep"


@pytest.mark.parametrize("streaming", [False, True])
def test_auto_leaves_out_one_value_in_a_thousand_and_says_what_it_took(folder, streaming, caplog):
    caplog.set_level(logging.INFO)
    source = load_source(str(folder), in_chans=1, value_range="auto", streaming=streaming)
    low, high = source.value_range
    assert 100 <= low <= 103 and 1996 <= high <= 1999
    line = f"value range {low:.0f} {high:.0f} (auto: percentiles 0.1 and 99.9 of 40 images, with"
    assert f"{line} values from 0 to 65535)" in caplog.messages[-1]
    again = load_source(str(folder), in_chans=1, value_range="auto", streaming=streaming)
    assert again.value_range == source.value_range


def test_the_images_of_a_source_are_mapped_by_its_range(folder):
    source = load_source(str(folder), in_chans=1, value_range=(0, 2047))
    (image,) = DecodedImages(source, 99).__getitems__([3])
    value = source.dataset[3]["image"]
    assert np.array_equal(image, decode_image(value, 1, value_range=(0, 2047)))
    assert image.max() == 255 and image.float().mean() > 100
    stream = load_source(str(folder), in_chans=1, value_range=(0, 2047), streaming=True)
    assert stream.value_range == (0.0, 2047.0)


def test_auto_looks_at_images_from_one_end_to_the_other():
    images = [{"bytes": encoded(np.full((8, 8), i, np.uint16)), "path": None} for i in range(1000)]
    features = Features({"image": Image(decode=False), "label": Value("int64")})
    rows = Dataset.from_dict({"image": images, "label": [0] * 1000}, features)
    low, high = settle_range(rows, "image", "auto", in_chans=1, max_pixels=None)
    assert low == 0 and 990 <= high <= 999


@pytest.mark.parametrize(
    "value_range, message",
    [
        ((5, 5), "value_range must rise from LOW to HIGH; got 5 5"),
        ((9, 1), "value_range must rise from LOW to HIGH; got 9 1"),
        (7, "value_range must be two numbers, auto or None; got 7"),
        ((1,), "value_range must be two numbers, auto or None"),
        ((0, float("inf")), "value_range must be two numbers, auto or None"),
        ("full", "value_range must be two numbers, auto or None; got 'full'"),
    ],
)
def test_a_range_that_is_none_is_refused(folder, value_range, message):
    with pytest.raises(ValueError, match=message):
        load_source(str(folder), in_chans=1, value_range=value_range)


def test_auto_on_images_of_one_value_or_none_asks_for_numbers(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full((16, 16), 7, np.uint16))
    with pytest.raises(ValueError, match="nearly all values of 3 images are 7; give LOW HIGH"):
        load_source(str(tmp_path), in_chans=1, value_range="auto")
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full((16, 16), np.nan))
    with pytest.raises(ValueError, match="no image of the sample can be read; give LOW HIGH"):
        load_source(str(tmp_path), in_chans=1, value_range="auto")


# the warning


def save(folder, images):
    for i, image in enumerate(images):
        if isinstance(image, bytes):
            (folder / f"{i}.png").write_bytes(image)
        else:
            np.save(folder / f"{i}.npy", image)
    return str(folder)


@pytest.mark.parametrize(
    "images, what",
    [
        ([encoded(np.full((9, 9), 4095, np.uint16))] * 3, "3 images .* 4095, of 65535"),
        ([png16(np.full((9, 9, 3), 900, np.uint16))] * 3, "3 images .* 900, of 65535"),
        ([np.full((9, 9, 3), 10_000, np.uint16)] * 3, "3 images .* 10000, of 65535"),
        ([np.full((9, 9, 3), 0.125, np.float32)] * 2, "2 images .* 0.125, of 1 that"),
    ],
)
def test_dark_deep_images_are_worth_one_warning(tmp_path, caplog, images, what):
    source = save(tmp_path, images)
    load_source(source, in_chans=3)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert record.name == "effssl.data._value_range"
    pattern = f"largest value in {what} .*give value_range 0 .*, or auto"
    assert re.search(pattern, record.getMessage()), record.getMessage()
    caplog.clear()
    load_source(source, in_chans=3, streaming=True)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    caplog.clear()
    load_source(source, in_chans=3, value_range=(0, 1))
    assert not caplog.records


@pytest.mark.parametrize(
    "images",
    [
        [encoded(np.full((9, 9), 40, np.uint8))] * 3,
        [encoded(np.zeros((9, 9), np.uint16))] * 3,
        [encoded(np.full((9, 9), v, np.uint16)) for v in (40, 60_000, 40)],
        [np.full((9, 9, 3), 3, np.int64)] * 3,
        [np.full((9, 9, 3), 3, np.uint8)] * 3,
    ],
)
def test_dark_images_of_8_bits_and_bright_deep_ones_are_not(tmp_path, caplog, images):
    load_source(save(tmp_path, images), in_chans=3)
    assert not caplog.records


# the cache


def test_a_cache_is_of_one_range_and_one_limit_of_pixels(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(_cache, "HF_HOME", str(tmp_path / "home"))
    options = [{}, {"value_range": (0, 4095)}, {"value_range": (0, 2047)}, {"max_pixels": 4095}]
    means = []
    for i, option in enumerate(options):
        source = load_source(str(folder), in_chans=1, **option)
        if "max_pixels" in option:
            with pytest.raises(ValueError, match="64 x 64 pixels are more than the 4,095 allowed"):
                _cache.cache_images(source, 64, max_bytes=1e9, workers=0)
            continue
        images = _cache.cache_images(source, 64, max_bytes=1e9, workers=0)
        caches = list((tmp_path / "home" / "effssl" / "decoded").glob("*/pixels.bin"))
        assert len(caches) == i + 1
        means.append(float(images.pixels.float().mean()))
    assert 10 * means[0] < means[1] < 0.6 * means[2]
    # the limit that Pillow has, said by number, is no other limit
    source = load_source(str(folder), in_chans=1, max_pixels=2 * Pillow.MAX_IMAGE_PIXELS)
    _cache.cache_images(source, 64, max_bytes=1e9, workers=0)
    assert len(list((tmp_path / "home" / "effssl" / "decoded").glob("*/pixels.bin"))) == 3


def test_what_an_extra_can_read_now_is_decoded_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(_cache, "HF_HOME", str(tmp_path / "home"))
    rows = 120  # one broken image is less than 1 % of them
    values = [{"bytes": encoded(deep(8, 8, high=256, dtype=np.uint8)), "path": None}] * rows
    values[7] = {"bytes": values[7]["bytes"], "path": "photo.heic"}
    features = Features({"image": Image(decode=False)})
    source = Source(Dataset.from_dict({"image": values}, features), "image", None, 1, rows)
    installed, decoded = False, []

    def decode(value, *arguments, **options):
        decoded.append(value)
        if value["path"] is not None and not installed:
            raise BrokenImage("a HEIF file: pip install 'effssl[heic]'")
        return decode_image(value, *arguments, **options)

    monkeypatch.setattr(_loader, "decode_image", decode)
    monkeypatch.setattr(_suffixes, "register_heif", lambda: installed)
    for now, expected, broken in [(False, 1, 1), (False, 1, 1), (True, 2, 0), (True, 2, 0)]:
        installed = now
        images = _cache.cache_images(source, 8, max_bytes=1e9, workers=0)
        assert len(decoded) == expected * rows and len(images.broken) == broken

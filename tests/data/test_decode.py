"""decode_image: conversions, turning, shrinking, and everything that makes an image broken."""

import io
import struct
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling

from effssl.data._decode import BrokenImage, decode_image, image_name, image_size, open_image


def noise(*shape, dtype=np.uint8, high=256, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def encoded(image, format="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, format, **options)
    return {"bytes": file.getvalue(), "path": None}


def photo(height, width):
    """A smooth picture, as JPEG likes them."""
    small = Image.fromarray(noise(9, 12, 3))
    return small.resize((width, height), Resampling.BICUBIC)


def luma(rgb):
    """ITU-R 601-2 grey of (..., 3), in Pillow's fixed point."""
    r, g, b = np.moveaxis(rgb.astype(np.int64), -1, 0)
    return (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16


def repeated(grey):
    return np.stack([grey] * 3)


def same(pixels, expected):
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    np.testing.assert_array_equal(pixels, expected)


# conversions


def test_grey_rgb_and_rgba_in_each_number_of_channels():
    grey, rgb, rgba = noise(5, 7), noise(5, 7, 3), noise(5, 7, 4)
    opaque = np.full((1, 5, 7), 255)
    rgb_first, rgba_first = np.moveaxis(rgb, -1, 0), np.moveaxis(rgba, -1, 0)
    same(decode_image(encoded(grey), 1), grey[None])
    same(decode_image(encoded(grey), 3), repeated(grey))
    same(decode_image(encoded(grey), 4), np.concatenate([repeated(grey), opaque]))
    same(decode_image(encoded(rgb), 1), luma(rgb)[None])
    same(decode_image(encoded(rgb), 3), rgb_first)
    same(decode_image(encoded(rgb), 4), np.concatenate([rgb_first, opaque]))
    same(decode_image(encoded(rgba), 1, background="drop"), luma(rgba[..., :3])[None])
    same(decode_image(encoded(rgba), 3, background="drop"), rgba_first[:3])
    same(decode_image(encoded(rgba), 4), rgba_first)


def test_grey_with_alpha_and_black_and_white():
    pixels = noise(5, 7, 2)
    grey_alpha = encoded(pixels)
    assert Image.open(io.BytesIO(grey_alpha["bytes"])).mode == "LA"
    same(decode_image(grey_alpha, 1, background="drop"), pixels[None, ..., 0])
    same(decode_image(grey_alpha, 3, background="drop"), repeated(pixels[..., 0]))
    expected = np.concatenate([repeated(pixels[..., 0]), pixels[None, ..., 1]])
    same(decode_image(grey_alpha, 4), expected)
    bits = noise(5, 7, high=2, dtype=bool)
    same(decode_image(encoded(bits), 1), bits[None] * 255)
    same(decode_image(encoded(bits), 3), repeated(bits * 255))


@pytest.mark.parametrize(
    "format, transparency",
    [("PNG", None), ("PNG", 3), ("PNG", bytes([0, 128, 255, 7])), ("GIF", None), ("GIF", 3)],
)
def test_a_palette_with_and_without_transparency(format, transparency):
    colors, index = noise(4, 3), noise(5, 7, high=4)
    index[0, :4] = range(4)
    image = Image.frombytes("P", (7, 5), index.tobytes())
    image.putpalette(colors.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    value = encoded(image, format, **options)
    alpha = np.full(4, 255)
    if isinstance(transparency, bytes):
        alpha = np.frombuffer(transparency, np.uint8)
    elif transparency is not None:
        alpha[transparency] = 0
    rgb = np.moveaxis(colors[index], -1, 0)
    same(decode_image(value, 3, background="drop"), rgb)
    same(decode_image(value, 1, background="drop"), luma(colors[index])[None])
    same(decode_image(value, 4), np.concatenate([rgb, alpha[index][None]]))


def test_a_transparent_color_without_a_palette():
    grey, rgb = noise(5, 7), noise(5, 7, 3)
    transparent_grey = encoded(grey, transparency=int(grey[2, 3]))
    same(decode_image(transparent_grey, 1, background="drop"), grey[None])
    same(decode_image(transparent_grey, 3, background="drop"), repeated(grey))
    transparent_rgb = encoded(rgb, transparency=tuple(rgb[2, 3].tolist()))
    same(decode_image(transparent_rgb, 1, background="drop"), luma(rgb)[None])
    same(decode_image(transparent_rgb, 3, background="drop"), np.moveaxis(rgb, -1, 0))
    alpha = np.where((rgb == rgb[2, 3]).all(-1), 0, 255)
    same(decode_image(transparent_rgb, 4)[3], alpha)


def test_cmyk():
    cmyk = noise(5, 7, 4)
    image = Image.frombytes("CMYK", (7, 5), cmyk.tobytes())
    ink, black = 255 - cmyk[..., :3].astype(float), 255 - cmyk[..., 3:].astype(float)
    rgb = np.moveaxis(decode_image(encoded(image, "TIFF"), 3), 0, -1)
    np.testing.assert_allclose(rgb, ink * black / 255, atol=1)
    same(decode_image(encoded(image, "TIFF"), 1), luma(rgb)[None])
    smooth = photo(40, 60).convert("CMYK")
    pixels = decode_image(encoded(smooth, "JPEG", quality=95), 3).astype(int)
    difference = np.moveaxis(pixels, 0, -1) - np.asarray(smooth.convert("RGB"))
    assert abs(difference).mean() < 3  # not inverted, as CMYK JPEG often comes out


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_over_its_range(format):
    deep = noise(5, 7, high=65536, dtype=np.uint16)
    deep[0, :3] = 0, 257, 65535
    expected = (deep.astype(int) + 128) // 257
    value = encoded(Image.fromarray(deep), format)
    same(decode_image(value, 1), expected[None])
    same(decode_image(value, 3), repeated(expected))
    assert expected[0, :3].tolist() == [0, 1, 255]


def test_16_bit_grey_of_the_other_byte_order_and_mode_i():
    deep = noise(5, 7, high=65536, dtype=np.uint16)
    expected = (deep.astype(int) + 128) // 257
    for mode, order in {"I;16B": ">u2", "I": "<i4"}.items():
        image = Image.frombytes(mode, (7, 5), deep.astype(order).tobytes())
        same(decode_image(encoded(image, "TIFF" if mode == "I;16B" else "PPM"), 1), expected[None])


def tiff(pixels, bits, sample_format):
    """A TIFF of one strip that Pillow cannot write, (H, W)."""
    data = pixels.tobytes()
    tags = [(256, 3, pixels.shape[1]), (257, 3, pixels.shape[0]), (258, 3, bits), (259, 3, 1)]
    tags += [(262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, pixels.shape[0])]
    tags += [(279, 4, len(data)), (339, 3, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return {"bytes": b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory, "path": None}


def test_12_bit_and_signed_and_32_bit_grey():
    deep = noise(6, 8, high=4096, dtype=np.uint16)
    high, low = deep[:, ::2], deep[:, 1::2]
    packed = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], -1).astype(np.uint8)
    twelve = tiff(packed.reshape(6, 12), 12, 1)
    twelve = {"bytes": twelve["bytes"].replace(*_width(12, 8)), "path": None}
    same(decode_image(twelve, 1), np.rint(deep / 4095 * 255)[None])
    signed = noise(6, 8, high=32768, dtype=np.int16)
    same(decode_image(tiff(signed, 16, 2), 1), np.rint(signed / 257)[None])
    signed[0, 0] = -1
    with pytest.raises(BrokenImage, match="16 bits, -1 to .*: grayscale may have 8 or 16 bits"):
        decode_image(tiff(signed, 16, 2), 1)
    with pytest.raises(BrokenImage, match="32 bits, 7 to 7: grayscale may have 8 or 16 bits"):
        decode_image(tiff(np.full((6, 8), 7, np.int32), 32, 2), 1)


def _width(wrong, right):
    return tuple(struct.pack("<HHII", 256, 3, 1, width) for width in (wrong, right))


def test_float_images_must_lie_in_0_to_1():
    values = np.random.default_rng(0).random((5, 7), np.float32)
    values[0, :2] = 0, 1
    same(decode_image(encoded(values, "TIFF"), 3), repeated(np.rint(values * 255)))
    for wrong in (1.5, -0.1, np.nan):
        values[2, 2] = wrong
        with pytest.raises(BrokenImage, match=r"they must lie in \[0, 1\]"):
            decode_image(encoded(values, "TIFF"), 3)


# turning and shrinking


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_exif_says(orientation, format):
    upright = photo(24, 40)
    stored = {  # how a camera held that way stores the upright picture
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](np.asarray(upright))
    exif = Image.Exif()
    exif[274] = orientation
    lossless = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}
    value = encoded(np.ascontiguousarray(stored), format, exif=exif, **lossless.get(format, {}))
    pixels = decode_image(value, 3).astype(int)
    assert pixels.shape == (3, 24, 40)
    difference = abs(np.moveaxis(pixels, 0, -1) - np.asarray(upright))
    assert difference.max() <= (12 if format == "JPEG" else 0)
    assert decode_image(value, 3, 12).shape == (3, 12, 20)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(90, 60), (60, 90), (61, 61)])
def test_images_shrink_as_pillow_shrinks_them(mode, size):
    channels = len(mode) if mode != "L" else 1
    image = Image.frombytes(mode, size, noise(size[0] * size[1] * channels).tobytes())
    shorter = min(size)
    target = tuple(round(side * 32 / shorter) for side in size)
    expected = np.asarray(image.resize(target, Resampling.BILINEAR)).reshape(*target[::-1], -1)
    same(decode_image(encoded(image), channels, 32), np.moveaxis(expected, -1, 0))
    assert open_image(encoded(image), channels, 32).size == target
    for enough in (shorter, shorter + 1, 1000, None):
        same(decode_image(encoded(image), channels, enough), decode_image(encoded(image), channels))


@pytest.mark.parametrize("short_side", [40, 64, 100, 149])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_that_is_decoded_small_differs_little_from_one_that_is_not(short_side, channels):
    value = encoded(photo(301, 403), "JPEG", quality=95)
    whole = Image.open(io.BytesIO(value["bytes"])).convert("L" if channels == 1 else "RGB")
    target = (round(403 * short_side / 301), short_side)
    expected = np.asarray(whole.resize(target, Resampling.BILINEAR)).reshape(*target[::-1], -1)
    pixels = decode_image(value, channels, short_side).astype(int)
    difference = abs(np.moveaxis(pixels, 0, -1) - expected)
    assert difference.max() <= 8 and difference.mean() < 1


# arrays


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_arrays_with_channels_first_and_last(channels, tmp_path):
    first = noise(channels, 9, 11)
    last = np.moveaxis(first, 0, -1)
    np.save(tmp_path / "first.npy", first)
    np.save(tmp_path / "last.npy", last)
    content = (tmp_path / "last.npy").read_bytes()
    for value in (
        first,
        last,
        first.tolist(),
        last.tolist(),
        str(tmp_path / "first.npy"),
        {"bytes": None, "path": str(tmp_path / "last.npy")},
        {"bytes": content, "path": "last.npy"},
        content,
    ):
        same(decode_image(value, channels), first)
        assert image_size(value, channels) == (9, 11)


def test_an_array_is_copied_and_channels_first_wins():
    both = noise(3, 9, 3)
    pixels = decode_image(both, 3)
    same(pixels, both)
    pixels[:] = 0
    assert both.any()
    grey = noise(9, 11)
    same(decode_image(grey, 1), grey[None])


def test_arrays_of_other_types():
    deep = noise(2, 9, 11, high=65536, dtype=np.uint16)
    same(decode_image(deep, 2), (deep.astype(int) + 128) // 257)
    same(decode_image(deep.astype(">u2"), 2), (deep.astype(int) + 128) // 257)
    bits = noise(2, 9, 11, high=2, dtype=bool)
    same(decode_image(bits, 2), bits * 255)
    for dtype in (np.float16, np.float32, np.float64):
        floats = np.random.default_rng(0).random((2, 9, 11)).astype(dtype)
        np.testing.assert_allclose(decode_image(floats, 2), floats.astype(float) * 255, atol=0.51)
    same(decode_image(np.linspace(0, 1, 256)[None, None].repeat(9, 1), 1)[0, 0], range(256))
    for dtype in (np.int64, np.int16, np.uint32):
        same(decode_image(noise(2, 9, 11).astype(dtype), 2), noise(2, 9, 11))


@pytest.mark.parametrize(
    "array, reason",
    [
        (np.full((2, 8, 8), 256), r"int64 from 256 to 256; .*must lie in 0..255"),
        (np.full((2, 8, 8), -1, np.int8), r"int8 from -1 to -1"),
        (np.full((2, 8, 8), 1.5), r"floats from 1.5 to 1.5; they must lie in \[0, 1\]"),
        (np.full((2, 8, 8), np.nan), "floats from nan"),
        (np.full((2, 8, 8), "a"), "array of <U1 is no image"),
        (np.zeros((3, 8, 9)), r"shape \(3, 8, 9\) does not have in_chans=2"),
        (np.zeros((8, 9)), r"shape \(8, 9\) does not have in_chans=2"),
        (np.zeros((1, 2, 8, 9)), r"shape \(1, 2, 8, 9\) does not have in_chans=2"),
        (np.zeros((2, 0, 9)), "9 x 0 pixels: no side may be 0"),
        (np.zeros((2, 330, 10)), "10 x 330 pixels: .* 32 times"),
        ([[[1, 2], [3]]], "inhomogeneous"),
        (7, r"shape \(\) does not have"),
    ],
)
def test_arrays_that_are_broken(array, reason):
    with pytest.raises(BrokenImage, match=reason):
        decode_image(array, 2)


def test_arrays_shrink_antialiased():
    pixels = noise(6, 80, 60)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(pixels)[None].double(), (40, 30), mode="bilinear", antialias=True
    )[0].numpy()
    shrunk = decode_image(pixels, 6, 30)
    assert shrunk.shape == (6, 40, 30) and shrunk.flags.c_contiguous and shrunk.flags.writeable
    np.testing.assert_allclose(shrunk, expected, atol=1.5)  # rounded after each of two passes
    same(decode_image(pixels, 6, 60), pixels)
    same(decode_image(pixels, 6, 99), pixels)


# broken images


def png(width, height):
    """A valid header of that size, with next to no pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return {"bytes": b"\x89PNG\r\n\x1a\n" + chunks, "path": None}


JPEG = encoded(photo(60, 80), "JPEG")["bytes"]
PNG = encoded(noise(60, 80, 3))["bytes"]


@pytest.mark.parametrize(
    "value, reason",
    [
        (None, "the cell is empty"),
        ({"bytes": None, "path": None}, "the cell is empty"),
        (b"", "not an image of a known format"),
        (b"this is a text", "not an image of a known format"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (PNG[:20], "."),
        (PNG[:2000] + bytes(50) + PNG[2050:], "broken|corrupt|CRC|truncated"),
        ({"bytes": None, "path": "/nowhere/at/all.png"}, "No such file"),
        ("/nowhere/at/all.npy", "No such file"),
        (b"\x93NUMPY\x01\x00garbage", "."),
        (png(30_000, 30_000), "30000 x 30000 pixels are more than .*: --max-pixels 900000000"),
        (png(12_000, 15_000), "12000 x 15000 pixels are more than the 178,956,970 allowed"),
        (png(3300, 100), "3300 x 100 pixels: no side may be 0 or over 32 times the other"),
        (png(100, 3300), "100 x 3300 pixels"),
        (png(0, 10), "0 x 10 pixels|not an image"),
    ],
)
def test_broken_images_say_what_is_wrong(value, reason):
    for short_side in (None, 16):
        with pytest.raises(BrokenImage, match=reason) as caught:
            decode_image(value, 3, short_side)
        assert "\n" not in str(caught.value) and str(caught.value)


def test_the_size_of_a_broken_image_cannot_be_told_either():
    for value in (None, b"", b"a text", png(30_000, 30_000), png(12_000, 15_000), png(99, 9_999)):
        with pytest.raises(BrokenImage):
            image_size(value, 3)


def test_a_pickle_is_not_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    for value in (str(tmp_path / "x.npy"), (tmp_path / "x.npy").read_bytes()):
        with pytest.raises(BrokenImage, match="allow_pickle|Python objects"):
            decode_image(value, 1)


def test_an_array_file_that_promises_more_than_it_holds_is_broken(tmp_path):
    file = tmp_path / "x.npy"
    np.save(file, noise(3, 90, 90))
    file.write_bytes(file.read_bytes().replace(b"(3, 90, 90)", b"(3, 9000, 9000)"))
    with pytest.raises(BrokenImage):
        decode_image(str(file), 3)


def test_image_files_have_1_3_or_4_channels():
    with pytest.raises(ValueError, match="in_chans=2: image files are read as 1") as caught:
        decode_image(PNG, 2)
    assert not isinstance(caught.value, BrokenImage)


# sizes, names, places, warnings


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_the_size_is_read_from_the_header(format, tmp_path):
    value = encoded(photo(60, 80), format)
    assert image_size(value, 3) == (60, 80) == image_size(value["bytes"], 3)
    (tmp_path / "x").write_bytes(value["bytes"])
    assert image_size(str(tmp_path / "x"), 3) == (60, 80)
    if format != "TIFF":  # whose header may stand at the end
        assert image_size(value["bytes"][: len(value["bytes"]) // 2], 3) == (60, 80)


def test_names():
    assert image_name({"bytes": b"", "path": "a/b.png"}, "row 12") == "a/b.png (row 12)"
    assert image_name("a/b.npy", "row 12") == "a/b.npy (row 12)"
    for value in ({"bytes": b"", "path": None}, b"bytes", None, noise(3, 3)):
        assert image_name(value, "row 12") == "row 12"


def test_files_and_archives_by_url(tmp_path):
    pixels = noise(20, 30, 3)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("in/a.png", encoded(pixels)["bytes"])
        with archive.open("b.npy", "w") as file:
            np.save(file, pixels)
    for url in (f"zip://in/a.png::{tmp_path}/x.zip", f"zip://b.npy::{tmp_path}/x.zip"):
        same(decode_image({"bytes": None, "path": url}, 3), np.moveaxis(pixels, -1, 0))
        assert image_size({"bytes": None, "path": url}, 3) == (20, 30)
    with pytest.raises(BrokenImage):
        decode_image({"bytes": None, "path": f"zip://missing.png::{tmp_path}/x.zip"}, 3)


def test_bad_metadata_is_no_reason_to_warn_in_any_thread():
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHII", 270, 2, 9999, 50) * 2 + bytes(4)
    value = encoded(photo(40, 60), "JPEG", exif=exif)
    with pytest.warns(UserWarning):
        Image.open(io.BytesIO(value["bytes"])).getexif()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            decoded = list(pool.map(lambda _: decode_image(value, 3), range(64)))
        assert warnings.filters == before and not caught
    assert all(np.array_equal(pixels, decoded[0]) for pixels in decoded)

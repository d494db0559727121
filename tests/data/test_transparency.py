"""Transparent pixels are laid on a background, whatever the format, mode and depth."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from effssl.data._decode import BrokenImage, decode_image
from effssl.data._modes import convert_image

tifffile = pytest.importorskip("tifffile")
RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 12, 17
COLORS = {"white": (255, 255, 255), "black": (0, 0, 0), "#ff8800": (255, 136, 0)}


def numbers(channels, high=256, dtype=np.uint8):
    found = RNG.integers(0, high, (HEIGHT, WIDTH, channels)).astype(dtype)
    found[:3, :, -1] = 0
    found[3:6, :, -1] = high - 1
    return found


def over(colors, alpha, background):
    """The formula in float64: colors and alpha are from 0 to 255, (H, W, 3) and (H, W, 1)."""
    colors, alpha = np.asarray(colors, np.float64), np.asarray(alpha, np.float64)
    laid = (colors * alpha + np.array(COLORS[background]) * (255 - alpha)) / 255
    return np.moveaxis(np.floor(laid + 0.5), -1, 0)


def luma(rgb):
    return np.tensordot([0.299, 0.587, 0.114], rgb, 1)[None]


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(bits, kind, stored, key=b""):
    """A PNG file by the standard: kind 0 is gray, 2 RGB, 4 gray and alpha, 6 RGBA."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, kind, 0, 0, 0)
    if bits < 8:
        each = 8 // bits
        padded = np.pad(stored[..., 0], ((0, 0), (0, -WIDTH % each))).reshape(HEIGHT, -1, each)
        stored = (padded << (8 - bits * (1 + np.arange(each)))).sum(-1)
    stored = stored.astype(">u2" if bits == 16 else np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    key = chunk(b"tRNS", key) if key else b""
    begin = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + key
    return begin + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("background", COLORS)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "TGA", "JPEG2000"])
def test_rgba_files_are_laid_on_the_background(format, background):
    rgba = numbers(4)
    if format == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("Pillow without JPEG 2000")
    lossless = {"WEBP": {"lossless": True, "exact": True}}.get(format, {})
    file = encoded(Image.fromarray(rgba), format, **lossless)
    found = decode_image(file, 3, background=background)
    expected = over(rgba[..., :3], rgba[..., 3:], background)
    np.testing.assert_array_equal(found, expected)
    gray = decode_image(file, 1, background=background)
    np.testing.assert_allclose(gray.astype(float), luma(expected), atol=0.51)


def test_white_is_the_default_and_drop_takes_the_colors_beneath():
    rgba = numbers(4)
    file = encoded(Image.fromarray(rgba))
    np.testing.assert_array_equal(decode_image(file, 3), decode_image(file, 3, background="white"))
    np.testing.assert_array_equal(decode_image(file, 3, background=None), decode_image(file, 3))
    dropped = decode_image(file, 3, background="drop")
    np.testing.assert_array_equal(dropped, np.moveaxis(rgba[..., :3], -1, 0))
    assert (decode_image(file, 3)[:, :3] == 255).all()


def test_four_channels_keep_transparency():
    rgba = numbers(4)
    for background in COLORS:
        found = decode_image(encoded(Image.fromarray(rgba)), 4, background=background)
        np.testing.assert_array_equal(found, np.moveaxis(rgba, -1, 0))


@pytest.mark.parametrize("background", COLORS)
@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_every_mode_with_transparency_is_laid_on_the_background(mode, background):
    stored = numbers(len(Image.new(mode, (1, 1)).getbands()))
    alpha = stored[..., -1:]
    palette = RNG.integers(0, 256, (256, 3)).astype(np.uint8)
    if mode in ("La", "RGBa"):
        stored[..., :-1] = np.minimum(stored[..., :-1], alpha)
    image = Image.frombytes(mode, (WIDTH, HEIGHT), stored.tobytes())
    colors = np.broadcast_to(stored[..., :-1], (HEIGHT, WIDTH, 3))
    if mode == "PA":
        image.putpalette(palette.tobytes())
        colors = palette[stored[..., 0]]
    expected = over(colors, alpha, background)
    if mode in ("La", "RGBa"):  # these colors are stored times opacity
        shown = colors + np.array(COLORS[background]) * (255.0 - alpha) / 255
        expected = np.moveaxis(shown, -1, 0)
    found = np.moveaxis(np.asarray(convert_image(image, "RGB", None, background)), -1, 0)
    np.testing.assert_allclose(found.astype(float), expected, atol=2 if mode[-1] == "a" else 0)
    gray = np.asarray(convert_image(image, "L", None, background))[None]
    np.testing.assert_allclose(gray.astype(float), luma(expected), atol=2.51)


@pytest.mark.parametrize("background", COLORS)
@pytest.mark.parametrize("format, key", [("PNG", 3), ("PNG", bytes([0, 128, 255, 7])), ("GIF", 3)])
def test_transparent_colors_of_a_palette_are_laid_on_the_background(format, key, background):
    palette = RNG.integers(0, 256, (4, 3)).astype(np.uint8)
    index = RNG.integers(0, 4, (HEIGHT, WIDTH)).astype(np.uint8)
    image = Image.frombytes("P", (WIDTH, HEIGHT), index.tobytes())
    image.putpalette(palette.tobytes())
    alpha = np.frombuffer(key, np.uint8) if isinstance(key, bytes) else 255 * (np.arange(4) != key)
    found = decode_image(encoded(image, format, transparency=key), 3, background=background)
    expected = over(palette[index], alpha[index][..., None], background)
    np.testing.assert_array_equal(found, expected)


def test_a_palette_of_four_channels_is_laid_on_the_background():
    palette = RNG.integers(0, 256, (256, 4)).astype(np.uint8)
    index = RNG.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
    image = Image.frombytes("P", (WIDTH, HEIGHT), index.tobytes())
    image.putpalette(palette.tobytes(), "RGBA")
    found = np.asarray(convert_image(image, "RGB", None, "#ff8800"))
    expected = over(palette[index][..., :3], palette[index][..., 3:], "#ff8800")
    np.testing.assert_array_equal(np.moveaxis(found, -1, 0), expected)


@pytest.mark.parametrize("value_range", [None, "whole"])
@pytest.mark.parametrize("bits, kind", [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2)])
def test_one_transparent_color_is_compared_in_all_of_its_bits(bits, kind, value_range):
    full = 2**bits - 1
    stored = RNG.integers(0, full + 1, (HEIGHT, WIDTH, 3 if kind else 1))
    stored[2:5, 3:9] = key = stored[4, 4].copy()
    near = key.copy()
    near[-1] ^= 1  # differs in the last bit alone
    stored[7] = near
    file = png(bits, kind, stored, struct.pack(f">{len(key)}H", *key.tolist()))
    opaque = (stored != key).any(-1, keepdims=True)
    colors = np.broadcast_to(stored * (255 / full), (HEIGHT, WIDTH, 3))
    whole = (0, 65535 if bits == 16 else 255) if value_range else None
    found = decode_image(file, 3, value_range=whole, background="#ff8800")
    expected = np.moveaxis(np.where(opaque, colors, COLORS["#ff8800"]), -1, 0)
    np.testing.assert_allclose(found.astype(float), expected, atol=0.51)
    of_four = decode_image(file, 4, value_range=whole)
    np.testing.assert_array_equal(of_four[3], 255 * opaque[..., 0])


@pytest.mark.parametrize("kind", [4, 6])
def test_deep_png_files_are_laid_on_the_background(kind):
    stored = numbers(2 if kind == 4 else 4, 65536, np.uint16)
    file = png(16, kind, stored)
    alpha, eight = stored[..., -1:] >> 8, stored[..., :-1] >> 8
    colors = np.broadcast_to(eight, (HEIGHT, WIDTH, 3))
    np.testing.assert_array_equal(decode_image(file, 3), over(colors, alpha, "white"))
    mapped = np.rint((stored[..., :-1].astype(float) - 9000).clip(0, 31_000) / 31_000 * 255)
    mapped = np.broadcast_to(mapped, (HEIGHT, WIDTH, 3))
    found = decode_image(file, 3, value_range=(9000, 40_000), background="#ff8800")
    np.testing.assert_array_equal(found, over(mapped, alpha, "#ff8800"))  # which is not mapped


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
def test_tiff_files_say_whether_colors_are_stored_times_opacity(kind, bits):
    full = 2**bits - 1
    stored = numbers(4, full + 1, np.uint8 if bits == 8 else np.uint16)
    if kind == "assocalpha":
        stored[..., :3] = np.minimum(stored[..., :3], stored[..., 3:])
    file = io.BytesIO()
    tifffile.imwrite(file, stored, photometric="rgb", extrasamples=[kind])
    colors, alpha = stored[..., :3] / full * 255, stored[..., 3:] / full * 255
    expected = (colors * alpha + 255 * (255 - alpha)) / 255
    if kind == "assocalpha":
        expected = colors + 255 - alpha
    elif kind == "unspecified":
        expected = colors
    expected = np.moveaxis(expected, -1, 0)
    found = decode_image(file.getvalue(), 3).astype(float)
    np.testing.assert_allclose(found, expected, atol=3)  # Pillow cuts off
    # with a range of values, tifffile reads those of 16 bits
    found = decode_image(file.getvalue(), 3, value_range=(0, full)).astype(float)
    np.testing.assert_allclose(found, expected, atol=3)  # Pillow cuts off


def test_heif_files_are_laid_on_the_background():
    pytest.importorskip("pillow_heif").register_heif_opener()
    rgba = np.full((64, 64, 4), (200, 30, 60, 0), np.uint8)
    rgba[:, 32:, 3] = 255
    found = decode_image(encoded(Image.fromarray(rgba), "HEIF", quality=-1), 3)
    assert (found[:, :, :28] >= 253).all() and (found[1:, :, 36:] < 70).all()


def test_an_image_is_laid_on_the_background_before_it_is_shrunk():
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[::2, :, 3] = 255  # black stripes on nothing
    found = decode_image(encoded(Image.fromarray(rgba)), 3, 16)
    assert abs(found[:, 2:-2].astype(int) - 128).max() < 12


def test_an_unknown_color_is_named_with_what_is_allowed():
    file = encoded(Image.fromarray(numbers(4)))
    for wrong in ("wite", "#12", "#ff880080", "", 7):
        with pytest.raises(ValueError, match="background must be a color such as white") as caught:
            decode_image(file, 3, background=wrong)
        assert not isinstance(caught.value, BrokenImage) and "\n" not in str(caught.value)

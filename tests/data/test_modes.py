"""Images of every mode of Pillow, and what their colors become."""

import colorsys
import io

import numpy as np
import PIL.Image
import pytest
from PIL import Image

from effssl.data._decode import decode_image
from effssl.data._modes import convert_image

SIZE = (9, 7)
DEEP = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
MODES = sorted(PIL.Image.MODES)


def drawn(mode):
    """An image of random numbers, with RGBA colors of 0 to 255 by formulas of another source."""
    rng = np.random.default_rng(len(mode))
    height, width = SIZE[::-1]

    def numbers(channels):
        return rng.integers(0, 256, (height, width, channels))

    def image(stored, mode=mode):
        return Image.frombytes(mode, SIZE, np.ascontiguousarray(stored, np.uint8).tobytes())

    if mode == "1":
        on = rng.integers(0, 2, (height, width)).astype(bool)
        return Image.fromarray(on), [on * 255] * 3, None
    if mode in DEEP:
        deep = rng.integers(0, 65536, (height, width))
        kind = {"I": "<i4", "F": "<f4", "I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
        stored = (deep / 65535 if mode == "F" else deep).astype(kind)
        return Image.frombytes(mode, SIZE, stored.tobytes()), [deep / 257] * 3, None
    if mode in ("P", "PA"):
        colors, index = rng.integers(0, 256, (256, 3)), numbers(1)
        alpha = numbers(1) if mode == "PA" else None
        made = image(index if alpha is None else np.concatenate([index, alpha], -1))
        made.putpalette(colors.astype(np.uint8).tobytes())
        return made, np.moveaxis(colors[index[..., 0]], -1, 0), alpha
    if mode == "LAB":
        rgb = 70 + numbers(3) // 2  # 8 bits are coarse where colors are strong
        return image(cielab(rgb)), np.moveaxis(rgb, -1, 0), None
    stored = numbers(len(Image.new(mode, (1, 1)).getbands()))
    if mode in ("RGBa", "La"):  # colors times alpha
        alpha = stored[..., -1:] = np.maximum(stored[..., -1:], 100)
        stored[..., :-1] = stored[..., :-1] * alpha // 255
        colors = stored[..., :-1] * 255 / alpha
        colors = np.repeat(colors, 3, -1) if mode == "La" else colors
        return image(stored), np.moveaxis(colors, -1, 0), alpha
    alpha = stored[..., -1:] if mode in ("RGBA", "LA") else None
    one, two, three = (stored[..., min(i, stored.shape[-1] - 1)].astype(float) for i in range(3))
    if mode in ("L", "LA"):
        colors = [stored[..., 0]] * 3
    elif mode == "CMYK":
        colors = [(255 - ink) * (255 - stored[..., 3]) / 255 for ink in (one, two, three)]
    elif mode == "YCbCr":  # JPEG
        blue, red = two - 128, three - 128
        colors = [one + 1.402 * red, one - 0.344136 * blue - 0.714136 * red, one + 1.772 * blue]
        colors = np.clip(colors, 0, 255)
    elif mode == "HSV":
        hue = np.vectorize(colorsys.hsv_to_rgb)(one / 255, two / 255, three / 255)
        colors = np.stack(hue) * 255
    else:
        colors = [one, two, three]
    return image(stored), colors, alpha


def cielab(rgb):
    """CIE L*a*b* of sRGB, by the standards: white is D50, a and b have 8 bits with sign."""
    linear = rgb / 255
    linear = np.where(linear > 0.04045, ((linear + 0.055) / 1.055) ** 2.4, linear / 12.92)
    xyz = linear @ np.array(  # adapted from D65 by Bradford
        [
            [0.4360747, 0.2225045, 0.0139322],
            [0.3850649, 0.7168786, 0.0971045],
            [0.1430804, 0.0606169, 0.7141733],
        ]
    )
    t = xyz / np.array([0.96422, 1, 0.82521])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    light = 116 * f[..., 1] - 16
    a, b = 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])
    return np.rint(np.stack([light * 2.55, a, b], -1)).astype(int) & 255


def check(found, colors, alpha, mode, tolerance):
    colors = np.asarray(colors, float)
    if mode == "L":
        colors = np.tensordot([0.299, 0.587, 0.114], colors, 1)[None]
    elif mode == "RGBA":
        opaque = np.full(SIZE[::-1], 255.0) if alpha is None else alpha[..., 0]
        colors = np.concatenate([colors, opaque[None]])
    np.testing.assert_allclose(found.astype(float), colors, atol=tolerance)


def test_all_modes_are_tried():
    assert len(MODES) >= 20 and {"LAB", "La", "RGBa", "PA", "HSV", "I;16B", "F"} <= set(MODES)


@pytest.mark.parametrize("target", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_any_mode_keeps_its_colors(mode, target):
    image, colors, alpha = drawn(mode)
    converted = convert_image(image, target, background="drop")
    assert converted.mode == target
    found = np.asarray(converted).reshape(*SIZE[::-1], -1)
    # of L*a*b* and of hue, 8 bits are coarse
    tolerance = {"LAB": 4, "HSV": 5, "RGBa": 2, "La": 2, "YCbCr": 2}.get(mode, 1.01)
    check(np.moveaxis(found, -1, 0), colors, alpha, target, tolerance)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "mode", ["1", "CMYK", "F", "I;16", "I;16B", "L", "LA", "LAB", "P", "RGB", "RGBA", "RGBX"]
)
def test_files_of_the_modes_that_tiff_has_decode(mode, channels):
    image, colors, alpha = drawn(mode)
    file = io.BytesIO()
    image.save(file, "TIFF")
    found = decode_image(file.getvalue(), channels, background="drop")
    tolerance = {"LAB": 4}.get(mode, 1.01)
    check(found, colors, alpha, "L" if channels == 1 else "RGB", tolerance)


def test_white_and_gray_of_lab_are_white_and_gray():
    for lightness, gray in {0: 0, 255: 255, 137: 128}.items():  # L* of 53.7 is the middle of sRGB
        image = Image.new("LAB", (4, 4), (lightness, 128, 128))
        for mode in ("L", "RGB"):
            found = np.asarray(convert_image(image, mode)).astype(int)
            assert abs(found - gray).max() <= 2


@pytest.mark.parametrize("mode", MODES)
def test_a_range_of_values_holds_for_every_mode(mode):
    image, colors, alpha = drawn(mode)
    low, high = {"I": (9000, 40_000), "F": (0.2, 0.7)}.get(mode, (50, 180))
    if mode.startswith("I;16"):
        low, high = 9000, 40_000
    full = 1 if mode == "F" else 65535 if mode in DEEP else 255
    mapped = (np.asarray(colors, float) / 255 * full - low) / (high - low) * 255
    expected = np.asarray(colors) if mode == "1" else mapped.clip(0, 255)
    found = np.asarray(convert_image(image, "RGBA", (low, high)))
    # an error of a step before the range is wider after it
    tolerance = 2 * {"LAB": 4, "HSV": 5, "RGBa": 2, "La": 2, "YCbCr": 2}.get(mode, 1.01)
    check(np.moveaxis(found, -1, 0), expected, alpha, "RGBA", tolerance)

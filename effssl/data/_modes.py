"""Conversion of Pillow images of any mode to 8-bit gray, RGB or RGBA."""

from __future__ import annotations

import numpy as np
import PIL.Image

from effssl.background import BACKGROUND, color_of, on_color
from effssl.data._deep import DeepValues, check_deep, deep_values, has_deep_key, with_scaled_key
from effssl.data._pixels import eight_bits

# Pillow converts these modes to few others, and to these in the right colors (LAB by ImageCms)
_BY_WAY_OF = {
    "CMYK": "RGB",
    "HSV": "RGB",
    "LAB": "RGB",
    "La": "LA",
    "PA": "RGBA",
    "RGBa": "RGBA",
    "YCbCr": "RGB",
}
_WITH_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_COLORS = {"L": 1, "RGB": 3, "RGBA": 3}


def convert_image(
    image: PIL.Image.Image,
    mode: str,
    value_range: tuple[float, float] | None = None,
    background: str | None = BACKGROUND,
) -> PIL.Image.Image:
    """Convert an image of any mode to mode L, RGB or RGBA.

    Gray of more than 8 bits is scaled over the full range of its type. Transparent pixels are
    laid on the background, except for RGBA: a color c of opacity a on a background b becomes
    (c a + b (255 - a)) / 255, rounded.

    Args:
        image: Image, best not loaded yet: a loaded one has no more than 8 bits of color.
        mode: Mode to convert to.
        value_range: Stored values that become 0 and 255 instead, in images of any depth; the colors
            of a palette, CMYK and so on count as converted. Black and white, transparency, and the
            background stay as they are.
        background: Color behind transparent pixels, or ``drop`` for the colors stored beneath; see
            `color_of`.

    Raises:
        BrokenImage: If gray of more than 8 bits has values that cannot be scaled.
    """
    if mode == "RGBA" or not _is_transparent(image):
        return _converted(image, mode, value_range)
    color = color_of(background)
    if color is None:
        return _converted(image, mode, value_range)
    flat = on_color(_converted(image, "RGBA", value_range), color)
    return flat if mode == "RGB" else flat.convert(mode)


def _is_transparent(image: PIL.Image.Image) -> bool:
    # Image.has_transparency_data fails without a palette
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        return True
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def _converted(
    image: PIL.Image.Image, mode: str, value_range: tuple[float, float] | None
) -> PIL.Image.Image:
    """Convert an image, with its transparency for RGBA and without for other modes."""
    if image.mode == mode and value_range is None:
        return image
    if image.mode[0] in "IF" or value_range is not None or has_deep_key(image):
        deep = deep_values(image)
        if deep is not None:
            if value_range is None:
                check_deep(deep, image)
            image, value_range = _from_deep(deep, value_range), None
    image = with_scaled_key(image)
    black_and_white = image.mode == "1"
    if image.mode in _BY_WAY_OF:
        image = image.convert(_BY_WAY_OF[image.mode])
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if mode != "RGBA" and "transparency" in image.info:
        image = image.copy()
        del image.info["transparency"]  # one color, or one gray level
    if image.mode != mode:
        image = image.convert(mode)
    if value_range is None or black_and_white:
        return image
    table = eight_bits(np.arange(256, dtype=np.uint8), value_range).tolist()
    alpha = list(range(256)) if mode == "RGBA" else []
    return image.point(table * _COLORS[mode] + alpha)


def _from_deep(deep: DeepValues, value_range: tuple[float, float] | None) -> PIL.Image.Image:
    values, full, alpha = deep
    if value_range is None and values.dtype.kind != "f":
        value_range = (0, full)
    colors = values[..., :-1] if alpha else values
    pixels = eight_bits(colors, value_range)
    if alpha:
        pixels = np.concatenate([pixels, (values[..., -1:] >> 8).astype(np.uint8)], -1)
    return PIL.Image.fromarray(pixels)

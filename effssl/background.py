"""The color behind transparent pixels."""

from __future__ import annotations

import functools
import re

import PIL.Image
from PIL import ImageColor

from effssl.hints import option

BACKGROUND = "white"
"""Background of transparent pixels if none is given."""
DROP = "drop"
"""Background by which transparency is dropped, and the colors stored beneath it show."""
FORM = r"#[0-9a-fA-F]{6}|[a-zA-Z]{1,20}"
"""Form of the text of a background."""


@functools.lru_cache(maxsize=64)
def color_of(background: str | None) -> tuple[int, int, int] | None:
    """Return the color of a background.

    Args:
        background: Name of a color (``white``, ``gray``), ``#rrggbb``, or ``drop``; white if None.

    Returns:
        Red, green and blue, 0 to 255; None for ``drop``.

    Raises:
        ValueError: If it is neither.
    """
    if background is None:
        background = BACKGROUND
    if background == DROP:
        return None
    try:
        if not re.fullmatch(FORM, background):
            raise ValueError
        red, green, blue = ImageColor.getrgb(background)
    except (ValueError, TypeError):
        raise ValueError(
            f"{option('background')} must be a color such as white, black, gray or #ff8800, or "
            f"{DROP} for the colors beneath transparency; got {str(background)[:100]!r}"
        ) from None
    return red, green, blue


def on_color(image: PIL.Image.Image, color: tuple[int, int, int]) -> PIL.Image.Image:
    """Lay an RGBA image on a color; the result has mode RGB, and is rounded to the nearest."""
    flat = PIL.Image.new("RGB", image.size, color)
    flat.paste(image, mask=image)
    return flat

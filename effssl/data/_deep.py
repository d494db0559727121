"""Stored numbers of Pillow images with more than 8 bits a channel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL.ExifTags import Base

from effssl.data._pixels import GIVE_RANGE, BrokenImage

_LEVELS = {"L;2": 85, "L;4": 17}  # of gray, from one to the next in 8 bits
_OTHER_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}


class DeepValues(NamedTuple):
    """Stored numbers of an image.

    Attributes:
        values: Numbers, (H, W) or (H, W, C).
        full: Largest number of their type.
        alpha: Whether the last channel is transparency.
    """

    values: np.ndarray
    full: float
    alpha: bool = False


def deep_values(image: PIL.Image.Image) -> DeepValues | None:
    """Return the stored numbers of an image of more than 8 bits, None for any other.

    PNG and PPM files have to be read before the image is loaded: Pillow keeps 8 bits of color, and
    scales gray to 16 bits.
    """
    if image.mode[0] == "F":
        return DeepValues(np.asarray(image), 1.0)
    if image.mode[0] == "I":
        scaled_from, key = _pgm_maximum(image), _png_key(image)
        values, full = np.asarray(image), float(_full_scale(image))
        if key is not None:
            return _keyed(values[..., None], key)
        if scaled_from is not None:
            values, full = np.rint(values * (scaled_from / 65535)), scaled_from
        return DeepValues(values, full)
    rawmode = _png_rawmode(image)
    if rawmode in _OTHER_BYTES:
        return _deep_png(image, rawmode)
    return None


def check_deep(deep: DeepValues, image: PIL.Image.Image) -> None:
    """Raise `BrokenImage` if whole numbers do not fit 8, 12 or 16 bits without sign."""
    if image.mode[0] == "F":
        return
    values, bits = deep.values, _bits(image)
    colors = values[..., :-1] if deep.alpha else values
    low, high = colors.min(), colors.max()
    if bits not in (12, 16) or low < 0 or high > deep.full:
        raise BrokenImage(
            f"whole numbers of {bits} bits, {low} to {high}: grayscale may have 8 or 16 bits "
            f"without sign; {GIVE_RANGE}"
        )


def _bits(image: PIL.Image.Image) -> int:
    tags = getattr(image, "tag_v2", None)
    return 16 if tags is None else tags.get(Base.BitsPerSample, (1,))[0]


def _full_scale(image: PIL.Image.Image) -> int:
    return 4095 if _bits(image) == 12 else 65535


def _pgm_maximum(image: PIL.Image.Image) -> float | None:
    """Return the largest value that a PGM file announces, from which Pillow scales to 16 bits."""
    if image.format != "PPM" or not image.tile or image.tile[0][0] not in ("ppm", "ppm_plain"):
        return None
    return float(image.tile[0][3][1])


def _deep_png(image: PIL.Image.Image, rawmode: str) -> DeepValues:
    # Pillow keeps the first of two bytes, and the second if told that color is little-endian. Gray
    # with alpha has four bytes, as many as RGBA of 8 bits.
    file = image.fp
    file.seek(0)
    other = type(image)(file)
    other.tile = [other.tile[0]._replace(args=_OTHER_BYTES[rawmode])]
    second = np.asarray(other)
    if rawmode == "LA;16B":
        values = second[..., ::2] * np.uint16(256) + second[..., 1::2]
    else:
        values = np.asarray(image) * np.uint16(256) + second
    if rawmode != "RGB;16B":
        return DeepValues(values, 65535.0, alpha=True)
    key = _png_key(image)
    return DeepValues(values, 65535.0) if key is None else _keyed(values, key)


def has_deep_key(image: PIL.Image.Image) -> bool:
    """Return whether one color of 16 bits is transparent, which Pillow compares with 8 of them."""
    raw = _png_rawmode(image) == "RGB;16B"
    return raw and _png_key(image) is not None


def with_scaled_key(image: PIL.Image.Image) -> PIL.Image.Image:
    """Return an image whose transparent gray has 8 bits, as its pixels do.

    Pillow scales only the pixels of a PNG file of 2 or 4 bits. The image must not be loaded yet.
    """
    step, key = _LEVELS.get(_png_rawmode(image) or ""), _png_key(image)
    if step is None or not isinstance(key, int):
        return image
    image = image.copy()
    image.info["transparency"] = step * key
    return image


def _png_rawmode(image: PIL.Image.Image) -> str | None:
    """Return how the pixels of a PNG file that is not loaded are stored."""
    rawmode = image.tile[0][3] if image.format == "PNG" and image.tile else None
    return rawmode if isinstance(rawmode, str) else None


def _png_key(image: PIL.Image.Image) -> int | tuple[int, ...] | None:
    """Return the transparent color of a PNG file, in its own bits."""
    key = image.info.get("transparency") if image.format == "PNG" else None
    return key if isinstance(key, int | tuple) else None


def _keyed(values: np.ndarray, key: int | tuple[int, ...]) -> DeepValues:
    """Add opacity to numbers of 16 bits, (H, W, C): none where they equal a color."""
    opaque = (values != np.array(key)).any(-1, keepdims=True)
    alpha = opaque.astype(np.uint16) * np.uint16(65535)
    return DeepValues(np.concatenate([values.astype(np.uint16), alpha], -1), 65535.0, alpha=True)

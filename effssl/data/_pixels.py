"""Conversion of images and arrays to 8-bit pixels in the channels asked for."""

from __future__ import annotations

import numpy as np
import PIL.Image
import torch
from PIL.ExifTags import Base

PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MAX_ASPECT = 32  # longer side by shorter side; an image beyond it is taken for garbage


class BrokenImage(ValueError):
    """An image that cannot be read. The message is the reason, in one line."""


class WrongChannels(BrokenImage):
    """An array whose number of channels is not the one asked for."""


def pil_mode(in_chans: int) -> str:
    """Return Pillow's mode for a number of channels.

    Raises:
        ValueError: If Pillow has none.
    """
    if in_chans not in PIL_MODES:
        raise ValueError(
            f"in_chans={in_chans}: image files are read as 1 (gray), 3 (RGB) or 4 (RGBA) channels"
        )
    return PIL_MODES[in_chans]


def check_size(height: int, width: int) -> None:
    """Raise `BrokenImage` if an image is too large, empty or too narrow."""
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > limit:
        raise BrokenImage(f"{width} x {height} pixels are more than the {limit:,} allowed")
    shorter, longer = sorted((height, width))
    if shorter == 0 or longer > MAX_ASPECT * shorter:
        raise BrokenImage(
            f"{width} x {height} pixels: no side may be 0 or over {MAX_ASPECT} times the other"
        )


def shrunk_size(height: int, width: int, short_side: int | None) -> tuple[int, int] | None:
    """Return the height and width to shrink to, or None if the image keeps its size."""
    shorter = min(height, width)
    if short_side is None or shorter <= short_side:
        return None
    return round(height * short_side / shorter), round(width * short_side / shorter)


def convert_image(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    """Convert an image to mode L, RGB or RGBA; grayscale of more than 8 bits is scaled to 8."""
    if image.mode[0] in "IF":  # Pillow's own conversion would clip at 255
        image = PIL.Image.fromarray(_deep_gray(image))
    if image.mode == mode:
        return image
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if mode != "RGBA" and "transparency" in image.info:
        image = image.copy()
        del image.info["transparency"]  # one color, or one gray level
    return image.convert(mode)


def _deep_gray(image: PIL.Image.Image) -> np.ndarray:
    """Convert grayscale of more than 8 bits to uint8, (H, W)."""
    pixels = np.asarray(image)
    if image.mode == "F":
        return eight_bits(pixels)
    bits = 16
    if hasattr(image, "tag_v2"):
        bits = image.tag_v2.get(Base.BitsPerSample, (1,))[0]
    full = 4095 if bits == 12 else 65535
    if bits not in (12, 16) or pixels.min() < 0 or pixels.max() > full:
        raise BrokenImage(
            f"whole numbers of {bits} bits, {pixels.min()} to {pixels.max()}: grayscale may have "
            "8 or 16 bits without sign"
        )
    return np.rint(pixels * np.float32(255 / full)).astype(np.uint8)


def channels_first(array: np.ndarray, in_chans: int) -> np.ndarray:
    """Return an array of (H, W), (C, H, W) or (H, W, C) as (C, H, W).

    Raises:
        WrongChannels: If it does not have ``in_chans`` channels.
        BrokenImage: If its size is refused by `check_size`.
    """
    shape = array.shape
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[0] != in_chans:
        array = np.moveaxis(array, -1, 0)
    if array.ndim != 3 or array.shape[0] != in_chans:
        raise WrongChannels(f"an array of shape {shape} does not have in_chans={in_chans}")
    check_size(*array.shape[1:])
    return array


def eight_bits(array: np.ndarray) -> np.ndarray:
    """Copy pixels of any type to contiguous uint8.

    Raises:
        BrokenImage: If their type or range is not that of an image.
    """
    kind = array.dtype.kind
    deep = kind == "u" and array.dtype.itemsize == 2  # in either byte order
    if array.dtype == np.uint8:
        return np.array(array, order="C")
    if kind not in "buif":
        raise BrokenImage(f"an array of {array.dtype} is no image")
    low, high = array.min(), array.max()
    if kind == "f" and not (low >= 0 and high <= 1):  # not: nan fails every comparison
        raise BrokenImage(f"floats from {low:.4g} to {high:.4g}; they must lie in [0, 1]")
    if kind in "ui" and not deep and (low < 0 or high > 255):
        raise BrokenImage(
            f"{array.dtype} from {low} to {high}; uint16 may have any values, other whole numbers "
            "must lie in 0..255"
        )
    if deep:
        array = np.rint(array * np.float32(1 / 257))
    elif kind == "f":
        array = np.rint(array * np.float32(255))
    elif kind == "b":
        array = array * np.uint8(255)
    return array.astype(np.uint8, order="C")


def shrink_array(pixels: np.ndarray, short_side: int | None) -> np.ndarray:
    """Shrink uint8 pixels, (C, H, W), until the shorter side is ``short_side``, antialiased."""
    shrunk = shrunk_size(*pixels.shape[1:], short_side)
    if shrunk is None:
        return pixels
    batch = torch.from_numpy(pixels)[None]
    resized = torch.nn.functional.interpolate(batch, shrunk, mode="bilinear", antialias=True)
    return resized[0].contiguous().numpy()

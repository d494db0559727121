"""Sizes, channels and 8-bit values of pixels."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image
import torch

from effssl.hints import option

PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MAX_ASPECT = 32  # longer side by shorter side; an image beyond it is taken for garbage
GIVE_RANGE = "--value-range LOW HIGH, or auto, maps other numbers"


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
            f"{option('in_chans')}={in_chans}: image files are read as 1 (gray), 3 (RGB) or 4 "
            "(RGBA) channels, and only TIFF files and arrays may have another number"
        )
    return PIL_MODES[in_chans]


def pixel_limit(max_pixels: int | None) -> float:
    """Return the most pixels an image may have: those given, else those that Pillow opens."""
    if max_pixels is not None:
        return max_pixels
    warned = PIL.Image.MAX_IMAGE_PIXELS  # Pillow warns above it, and refuses above its double
    return math.inf if warned is None else 2 * warned


def check_size(height: int, width: int, max_pixels: int | None = None) -> None:
    """Raise `BrokenImage` if an image is too large, empty or too narrow."""
    limit = pixel_limit(max_pixels)
    if height * width > limit:
        raise BrokenImage(
            f"{width} x {height} pixels are more than the {limit:,} allowed: --max-pixels "
            f"{height * width} reads it"
        )
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


def channels_first(array: np.ndarray, in_chans: int, max_pixels: int | None = None) -> np.ndarray:
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
    check_size(*array.shape[1:], max_pixels)
    return array


def eight_bits(array: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """Copy pixels of any type to contiguous uint8.

    Args:
        array: Pixels.
        value_range: Values that become 0 and 255, with a straight line between them and clipping
            beyond. Missing values (NaN) become 0. bool has no range.

    Raises:
        BrokenImage: If their type or range is not that of an image.
    """
    kind = array.dtype.kind
    if value_range is not None and kind in "uif":
        return _mapped(array, *value_range)
    deep = kind == "u" and array.dtype.itemsize == 2  # in either byte order
    if array.dtype == np.uint8:
        return np.array(array, order="C")
    if kind not in "buif":
        raise BrokenImage(f"an array of {array.dtype} is no image")
    low, high = array.min(), array.max()
    if kind == "f" and not (low >= 0 and high <= 1):  # not: nan fails every comparison
        raise BrokenImage(
            f"floats from {low:.4g} to {high:.4g}; they must lie in [0, 1]; {GIVE_RANGE}"
        )
    if kind in "ui" and not deep and (low < 0 or high > 255):
        raise BrokenImage(
            f"{array.dtype} from {low} to {high}; uint16 may have any values, other whole numbers "
            f"must lie in 0..255; {GIVE_RANGE}"
        )
    if deep:
        array = np.rint(array * np.float32(1 / 257))
    elif kind == "f":
        array = np.rint(array * np.float32(255))
    elif kind == "b":
        array = array * np.uint8(255)
    return array.astype(np.uint8, order="C")


def _mapped(array: np.ndarray, low: float, high: float) -> np.ndarray:
    wide = array.dtype.itemsize > 2  # float32 holds all values of narrower types
    numbers = array.astype(np.float64 if wide else np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is clipped as well
        numbers -= low
        numbers *= 255 / (high - low)
    if array.dtype.kind == "f":
        missing = np.isnan(numbers)
        if missing.all():
            raise BrokenImage("every value is NaN")
        numbers[missing] = 0
    return np.rint(numbers.clip(0, 255, out=numbers), out=numbers).astype(np.uint8, order="C")


def shrink_array(pixels: np.ndarray, short_side: int | None) -> np.ndarray:
    """Shrink uint8 pixels, (C, H, W), until the shorter side is ``short_side``, antialiased."""
    shrunk = shrunk_size(*pixels.shape[1:], short_side)
    if shrunk is None:
        return pixels
    batch = torch.from_numpy(pixels)[None]
    resized = torch.nn.functional.interpolate(batch, shrunk, mode="bilinear", antialias=True)
    return resized[0].contiguous().numpy()

"""Fashion-MNIST moved: every object in a place, a size and a turn of its own, on black."""

from __future__ import annotations

import hashlib
import math

import numpy as np

SIDE = 32
"""Height and width of a moved image in pixels."""
_SIZES = (0.45, 0.9)
_DEGREES = 20
_SEED = b"fashion-mnist-moved 0"
_ONE = 1 << 12  # shares of a pixel are whole numbers up to it
_CHUNK = 128  # images drawn at a time


def move_objects(images: np.ndarray) -> np.ndarray:
    """Draw every object smaller, turned and somewhere else, in one antialiased resampling.

    Its size is uniform from 0.45 to 0.9 of the original and its turn up to 20 degrees to either
    side. The place of its frame, which is not turned with it, is uniform among those where the
    whole frame is in the image. An object whose turned corners still leave the image is moved back
    by what leaves it, and one that fits nowhere gets the largest size that does. All of it follows
    from a hash of the object's pixels, so an image is the same in any subset, order and release.
    Sums are of whole numbers, so that every machine gives the same bytes.

    Args:
        images: Objects on black, uint8, (N, H, W), of at most 32 x 32 pixels.

    Returns:
        Moved objects on black, uint8, (N, 32, 32).

    Raises:
        ValueError: If the images are not uint8, (N, H, W), or larger.
    """
    if images.dtype != np.uint8 or images.ndim != 3 or max(images.shape[1:]) > SIDE:
        raise ValueError(
            f"images must be uint8, (N, H, W), with sides of at most {SIDE} pixels, got "
            f"{images.dtype}, {images.shape}"
        )
    moved = np.zeros((len(images), SIDE, SIDE), np.uint8)
    drawn = np.flatnonzero(images.any((1, 2)))  # a black image stays black
    for first in range(0, len(drawn), _CHUNK):
        rows = drawn[first : first + _CHUNK]
        moved[rows] = _draw(images[rows])
    return moved


def _draw(images: np.ndarray) -> np.ndarray:
    """Draw images of which none is black.

    A pixel of the object is a square of its size, whose value every pixel of the canvas takes by
    the share of it that the square covers. Turned squares count as upright ones, whose shares then
    sum to 1 within 1 %.
    """
    n, row, column = np.nonzero(images)
    (down, across), scale = _place(images, n, row, column)
    values = images[n, row, column].astype(np.int64)
    columns = _covered(across, scale[n])
    total = np.zeros(len(images) * SIDE * SIDE)  # whole numbers below 2**53, so nothing is rounded
    for y, share_y in _covered(down, scale[n]):
        for x, share_x in columns:
            pixel = (n * SIDE + y) * SIDE + x
            total += np.bincount(pixel, values * share_y * share_x, len(total))
    area = np.rint(scale**2 * _ONE).astype(np.int64)
    total = total.astype(np.int64).reshape(-1, SIDE, SIDE) * area[:, None, None]
    return np.minimum((total + _ONE**3 // 2) // _ONE**3, 255)


def _place(
    images: np.ndarray, n: np.ndarray, row: np.ndarray, column: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return where pixels of objects lie on the canvas, down and across, and the scale of each."""
    size, turn, *places = np.array([_numbers(image) for image in images]).T
    cos, sin = np.array([_cos_sin(_DEGREES * (2 * number - 1)) for number in turn]).T
    frame = images.shape[1:]
    row, column = row - (frame[0] - 1) / 2, column - (frame[1] - 1) / 2
    turned = (sin[n] * column + cos[n] * row, cos[n] * column - sin[n] * row)
    begins = np.flatnonzero(np.diff(n, prepend=-1))  # first pixel of each image
    low = [np.minimum.reduceat(along, begins) - 0.5 for along in turned]
    high = [np.maximum.reduceat(along, begins) + 0.5 for along in turned]
    largest = SIDE / np.maximum(*np.subtract(high, low))
    scale = np.minimum(_SIZES[0] + (_SIZES[1] - _SIZES[0]) * size, largest)
    found = []
    for along, first, last, place, side in zip(turned, low, high, places, frame, strict=True):
        center = side / 2 * scale + place * (SIDE - side * scale)
        center = np.clip(center, -scale * first, SIDE - scale * last)
        found.append(scale[n] * along + center[n])
    return found, scale


def _covered(center: np.ndarray, width: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the two pixels of a line that segments of these centers cover, and their shares."""
    first = np.floor(center - 0.5)
    pairs = []
    for pixel in (first, first + 1):
        overlap = (1 + width) / 2 - np.abs(pixel + 0.5 - center)
        share = np.rint(np.clip(overlap / width, 0, 1) * _ONE).astype(np.int64)
        pairs.append((np.clip(pixel.astype(np.int64), 0, SIDE - 1), share))  # beyond it share is 0
    return pairs


def _numbers(image: np.ndarray) -> list[float]:
    """Return four numbers from 0 to 1 that follow from the pixels of an image."""
    digest = hashlib.sha256(_SEED + image.tobytes()).digest()
    return [number / 2**64 for number in np.frombuffer(digest, "<u8").tolist()]


def _cos_sin(degrees: float) -> tuple[float, float]:
    """Return both, rounded since their last bits differ between machines."""
    angle = math.radians(degrees)
    return round(math.cos(angle), 6), round(math.sin(angle), 6)

"""Decoding of image column cells; a cell that cannot be read raises `BrokenImage`."""

from __future__ import annotations

import errno
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import BinaryIO

import numpy as np
import PIL.Image
from PIL.ExifTags import Base
from PIL.Image import Resampling, Transpose

from effssl.data._paths import open_cell, shown
from effssl.data._pixels import (
    BrokenImage,
    channels_first,
    check_size,
    convert_image,
    eight_bits,
    pil_mode,
    shrink_array,
    shrunk_size,
)

# the process has run out of something, which says nothing about the image
_OUR_FAULT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_NPY = b"\x93NUMPY"  # first bytes of an .npy file
_EXIF_KEYS = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
# ImageOps.exif_transpose also writes the metadata anew: it takes up to twice as long as decoding a
# small image, and raises on damaged metadata whose orientation can be read
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def image_name(value: object, place: str) -> str:
    """Return a name for messages: ``photos/a.png (row 12)``, or the place alone.

    A path is not enough: webdataset has none, and in some data sets all are the same.
    """
    path = value.get("path") if isinstance(value, dict) else value
    return f"{shown(path)} ({place})" if isinstance(path, str) and path else place


def image_size(value: object, in_chans: int) -> tuple[int, int]:
    """Read the height and width in pixels from the header, before EXIF rotation.

    For an array, ``in_chans`` tells the channels from the sides, as in `open_image`.

    Raises:
        BrokenImage: If the header cannot be read, or the size is not that of an image.
    """
    with _broken_if_it_fails(), _no_pil_warnings:
        content = _content(value, header_only=True)
        if isinstance(content, np.ndarray):
            shape = content.shape
            if len(shape) == 3:
                shape = shape[1:] if shape[0] == in_chans else shape[:2]
            if len(shape) != 2:
                raise BrokenImage(f"an array of shape {content.shape} is no image")
            height, width = shape
        else:
            with content as file:
                width, height = PIL.Image.open(file).size
        check_size(height, width)
    return height, width


def decode_image(value: object, in_chans: int, short_side: int | None = None) -> np.ndarray:
    """Read one image like `open_image`, as an array.

    Returns:
        Contiguous, writable uint8 pixels, (C, H, W).

    Raises:
        BrokenImage: If the image cannot be read.
        ValueError: If image files cannot have ``in_chans`` channels.
    """
    image = open_image(value, in_chans, short_side)
    if isinstance(image, np.ndarray):
        return image
    # np.asarray of a Pillow image takes as long as decoding a small one
    pixels = np.frombuffer(image.tobytes(), np.uint8)
    return pixels.reshape(image.height, image.width, in_chans).transpose(2, 0, 1).copy()


def open_image(
    value: object, in_chans: int, short_side: int | None = None
) -> PIL.Image.Image | np.ndarray:
    """Read one image in the channels asked for, upright and in 8 bits.

    An image file is rotated by its EXIF orientation and converted. 16-bit grayscale is scaled over
    its full range, floats must lie in [0, 1], and a transparent color is dropped except for RGBA.

    An array must have the channels asked for, first or last (first if both fit). uint8 is kept,
    uint16 divided by 257, bool multiplied by 255, floats in [0, 1] multiplied by 255; other
    integers must lie in 0..255.

    Args:
        value: A cell of a source's image column: ``{"bytes": ..., "path": ...}``, the bytes or
            path of an image or .npy file (or a URL that ``datasets`` reads), or an array or
            nested list, (H, W), (C, H, W) or (H, W, C).
        in_chans: Channels, C; 1 (gray), 3 (RGB) or 4 (RGBA) for image files, any for arrays.
        short_side: Most pixels of the shorter side. A larger image is shrunk, antialiased
            bilinear; a smaller one keeps its size.

    Returns:
        A Pillow image in mode L, RGB or RGBA; for arrays uint8 pixels, (C, H, W).

    Raises:
        BrokenImage: If the image cannot be read, has more pixels than
            ``PIL.Image.MAX_IMAGE_PIXELS``, a side of 0, or one more than 32 times the other.
        ValueError: If image files cannot have ``in_chans`` channels.
    """
    with _broken_if_it_fails():
        content = _content(value)
        if isinstance(content, np.ndarray):
            return shrink_array(eight_bits(channels_first(content, in_chans)), short_side)
    mode = pil_mode(in_chans)
    with _broken_if_it_fails(), _no_pil_warnings:
        return _read_file(content, mode, short_side)


@contextmanager
def _broken_if_it_fails() -> Iterator[None]:
    try:
        yield
    except (BrokenImage, MemoryError):
        raise
    except PIL.UnidentifiedImageError as error:
        raise BrokenImage("not an image of a known format") from error
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        if getattr(error, "errno", None) in _OUR_FAULT:
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BrokenImage(" ".join(reason.split())) from error


class _NoPilWarnings:
    """Silence Pillow's warnings, mostly about bad metadata, while any thread is inside.

    With ``warnings.catch_warnings`` alone, overlapping threads would leave its filter behind.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.catch = warnings.catch_warnings()
                self.catch.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b")
            self.inside += 1

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.catch.__exit__(*exception)


_no_pil_warnings = _NoPilWarnings()


def _content(value: object, header_only: bool = False) -> np.ndarray | BinaryIO:
    """Return an open image file, or the array that the cell holds or names."""
    path = None
    if isinstance(value, dict):
        value, path = value.get("bytes"), value.get("path")
    if isinstance(value, str):
        value, path = None, value
    if value is None and path is None:
        raise BrokenImage("the cell is empty")
    if value is None:
        if path.endswith(".npy") and "://" not in path:
            return np.load(path, mmap_mode="r", allow_pickle=False)  # checks the length first
        file = open_cell(path)
        if header_only and file.read(len(_NPY)) != _NPY:
            file.seek(0)
            return file
        with file:
            file.seek(0)
            value = file.read()
    if not isinstance(value, bytes | bytearray | memoryview):
        return np.asarray(value)
    if value[: len(_NPY)] == _NPY:
        return np.load(BytesIO(value), allow_pickle=False)
    return BytesIO(value)


def _read_file(file: BinaryIO, mode: str, short_side: int | None) -> PIL.Image.Image:
    with file, PIL.Image.open(file) as image:
        check_size(image.height, image.width)
        shrunk = shrunk_size(image.height, image.width, short_side)
        box = None
        if shrunk is not None:
            # a JPEG decodes to 1/2, 1/4 or 1/8 at a fraction of the cost, if that is large enough
            drafted = image.draft(None, (short_side, short_side))
            box = drafted[1] if drafted else None
        image.load()
        turn = None
        if hasattr(image, "tag_v2") or not _EXIF_KEYS.isdisjoint(image.info):
            turn = _TURNS.get(image.getexif().get(Base.Orientation))
        image = convert_image(image, mode)
        if shrunk is not None:
            image = image.resize(shrunk[::-1], Resampling.BILINEAR, box)
        return image if turn is None else image.transpose(turn)

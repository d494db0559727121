"""Cells of an image column as 8-bit pixels; whatever cannot be read is a `BrokenImage`."""

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
import torch
from PIL.Image import Resampling, Transpose

PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MAX_ASPECT = 32  # longer side by shorter side; more is taken for garbage

# the process has run out of something, which says nothing about the image
_OUR_FAULT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_NPY = b"\x93NUMPY"  # first bytes of an .npy file
_ORIENTATION, _BITS_PER_SAMPLE = 274, 258  # TIFF and EXIF tags
_EXIF_KEYS = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


class BrokenImage(ValueError):
    """An image that cannot be read. The message is the reason, in one line."""


class WrongChannels(BrokenImage):
    """An array of another number of channels than asked for."""


def pil_mode(in_chans: int) -> str:
    """Pillow's mode of images with so many channels.

    Raises:
        ValueError: If Pillow has none.
    """
    if in_chans not in PIL_MODES:
        raise ValueError(
            f"in_chans={in_chans}: image files are read as 1 (grey), 3 (RGB) or 4 (RGBA) channels"
        )
    return PIL_MODES[in_chans]


def image_name(value: object, place: str) -> str:
    """What to call an image in a message: ``photos/a.png (row 12)``, or its place alone.

    Paths are not enough: webdataset has none, and in some data sets all are the same.
    """
    path = value.get("path") if isinstance(value, dict) else value
    return f"{path} ({place})" if isinstance(path, str) and path else place


def image_size(value: object, in_chans: int) -> tuple[int, int]:
    """Height and width in pixels from the header alone, before any turning by EXIF.

    Of an array the channels are told from the sides by ``in_chans``, as `open_image` does.

    Raises:
        BrokenImage: If the header cannot be read or tells of garbage.
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
        _check_size(height, width)
    return height, width


def decode_image(value: object, in_chans: int, short_side: int | None = None) -> np.ndarray:
    """Read one image as `open_image` does.

    Returns:
        Contiguous, writable uint8 pixels, (C, H, W).

    Raises:
        BrokenImage: If it cannot be read.
        ValueError: If image files do not have so many channels.
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

    An image file is turned as its EXIF says and converted: 16-bit greyscale is scaled over its
    full range, floats must lie in [0, 1], a transparent colour is dropped but for RGBA. An array
    must have the channels asked for, first or last (first if both ends agree); uint8 is kept,
    uint16 divided by 257, bool multiplied by 255, floats in [0, 1] multiplied by 255, and other
    integers must lie in 0..255.

    Args:
        value: A cell of a source's image column: ``{"bytes": ..., "path": ...}``, the bytes or
            path of an image or .npy file (a URL that ``datasets`` reads will do), or an array or
            nested list, (H, W), (C, H, W) or (H, W, C).
        in_chans: Channels, C; 1 (grey), 3 (RGB) or 4 (RGBA) for image files, any for arrays.
        short_side: Shrink until the shorter side has at most so many pixels, antialiased
            bilinear; a smaller image keeps its size.

    Returns:
        A Pillow image in mode L, RGB or RGBA, or for arrays uint8 pixels, (C, H, W).

    Raises:
        BrokenImage: If it cannot be read, has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``, a
            side of 0, or one more than 32 times the other.
        ValueError: If image files do not have so many channels.
    """
    with _broken_if_it_fails():
        content = _content(value)
        if isinstance(content, np.ndarray):
            return _shrink_array(_eight_bits(_channels_first(content, in_chans)), short_side)
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
    """Silence Pillow, about bad metadata above all, for as long as any thread is inside.

    ``warnings.catch_warnings`` alone would leave its filter behind where threads overlap.
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
    """An open image file, or the array that the cell is or names."""
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
        file = open_path(path)
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


def open_path(path: str) -> BinaryIO:
    """A file by its path, or by a URL that ``datasets`` reads."""
    if "://" not in path:
        return open(path, "rb")
    from datasets.utils.file_utils import xopen  # hf://, https://, zip://photo.png::archive.zip

    return xopen(path, "rb")


def _check_size(height: int, width: int) -> None:
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > limit:
        raise BrokenImage(f"{width} x {height} pixels are more than the {limit:,} allowed")
    shorter, longer = sorted((height, width))
    if shorter == 0 or longer > MAX_ASPECT * shorter:
        raise BrokenImage(
            f"{width} x {height} pixels: no side may be 0 or over {MAX_ASPECT} times the other"
        )


def _shrunk(height: int, width: int, short_side: int | None) -> tuple[int, int] | None:
    """The height and width to shrink to, or None for those it has."""
    shorter = min(height, width)
    if short_side is None or shorter <= short_side:
        return None
    return round(height * short_side / shorter), round(width * short_side / shorter)


def _read_file(file: BinaryIO, mode: str, short_side: int | None) -> PIL.Image.Image:
    with file, PIL.Image.open(file) as image:
        _check_size(image.height, image.width)
        shrunk = _shrunk(image.height, image.width, short_side)
        box = None
        if shrunk is not None:
            # a JPEG decodes to 1/2, 1/4 or 1/8 at a fraction of the cost, if that is large enough
            drafted = image.draft(None, (short_side, short_side))
            box = drafted[1] if drafted else None
        image.load()
        turn = None
        if hasattr(image, "tag_v2") or not _EXIF_KEYS.isdisjoint(image.info):
            turn = _TURNS.get(image.getexif().get(_ORIENTATION))
        image = convert_image(image, mode)
        if shrunk is not None:
            image = image.resize(shrunk[::-1], Resampling.BILINEAR, box)
        return image if turn is None else image.transpose(turn)


def convert_image(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    """An image in mode L, RGB or RGBA; greyscale of more than 8 bits is scaled to 8."""
    if image.mode[0] in "IF":  # Pillow's own conversion would clip at 255
        image = PIL.Image.fromarray(_deep_grey(image))
    if image.mode == mode:
        return image
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if mode != "RGBA" and "transparency" in image.info:
        image = image.copy()
        del image.info["transparency"]  # one colour, or a grey level
    return image.convert(mode)


def _deep_grey(image: PIL.Image.Image) -> np.ndarray:
    """Greyscale of more than 8 bits, (H, W), as uint8."""
    pixels = np.asarray(image)
    if image.mode == "F":
        return _eight_bits(pixels)
    bits = 16
    if hasattr(image, "tag_v2"):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))[0]
    full = 4095 if bits == 12 else 65535
    if bits not in (12, 16) or pixels.min() < 0 or pixels.max() > full:
        raise BrokenImage(
            f"whole numbers of {bits} bits, {pixels.min()} to {pixels.max()}: greyscale may have "
            "8 or 16 bits without sign"
        )
    return np.rint(pixels * np.float32(255 / full)).astype(np.uint8)


def _channels_first(array: np.ndarray, in_chans: int) -> np.ndarray:
    shape = array.shape
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[0] != in_chans:
        array = np.moveaxis(array, -1, 0)
    if array.ndim != 3 or array.shape[0] != in_chans:
        raise WrongChannels(f"an array of shape {shape} does not have in_chans={in_chans}")
    _check_size(*array.shape[1:])
    return array


def _eight_bits(array: np.ndarray) -> np.ndarray:
    """Pixels of any type as uint8, contiguous and the caller's own."""
    kind = array.dtype.kind
    deep = kind == "u" and array.dtype.itemsize == 2  # of either byte order
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


def _shrink_array(pixels: np.ndarray, short_side: int | None) -> np.ndarray:
    shrunk = _shrunk(*pixels.shape[1:], short_side)
    if shrunk is None:
        return pixels
    batch = torch.from_numpy(pixels)[None]
    resized = torch.nn.functional.interpolate(batch, shrunk, mode="bilinear", antialias=True)
    return resized[0].contiguous().numpy()

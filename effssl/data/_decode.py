"""Decoding of image column cells; a cell that cannot be read raises `BrokenImage`."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import PIL.Image
from PIL.ExifTags import Base
from PIL.Image import Resampling, Transpose

from effssl.background import BACKGROUND, DROP, color_of, on_color
from effssl.data._cells import OUR_FAULT, broken_if_it_fails, content_of, no_pil_warnings
from effssl.data._cells import image_name as image_name
from effssl.data._deep import deep_values
from effssl.data._files import check_work, open_picture
from effssl.data._modes import convert_image
from effssl.data._pixels import (
    PIL_MODES,
    BrokenImage,
    channels_first,
    check_size,
    eight_bits,
    pil_mode,
    shrink_array,
    shrunk_size,
)
from effssl.data._suffixes import has_tifffile
from effssl.data._tiff import (
    PREMULTIPLIED,
    is_beyond_pillow,
    is_tiff,
    read_tiff,
    tiff_alpha,
    tiff_size,
)

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


def image_size(value: object, in_chans: int, max_pixels: int | None = None) -> tuple[int, int]:
    """Read the height and width in pixels from the header, before EXIF rotation.

    For an array, ``in_chans`` tells the channels from the sides, as in `open_image`.

    Raises:
        BrokenImage: If the header cannot be read, or the size is not that of an image.
    """
    with broken_if_it_fails(), no_pil_warnings:
        content = content_of(value, header_only=True)
        if isinstance(content, np.ndarray):
            shape = content.shape
            if len(shape) == 3:
                shape = shape[1:] if shape[0] == in_chans else shape[:2]
            if len(shape) != 2:
                raise BrokenImage(f"an array of shape {content.shape} is no image")
            height, width = shape
        else:
            with content as file:
                height, width = _file_size(file, in_chans)
        check_size(height, width, max_pixels)
    return height, width


def _file_size(file: BinaryIO, in_chans: int) -> tuple[int, int]:
    if in_chans not in PIL_MODES and is_tiff(file):
        return tiff_size(file)
    try:
        width, height = open_picture(file).size
    except PIL.UnidentifiedImageError:
        if not is_tiff(file):
            raise
        return tiff_size(file)
    return height, width


def decode_image(
    value: object,
    in_chans: int,
    short_side: int | None = None,
    *,
    value_range: tuple[float, float] | None = None,
    background: str | None = BACKGROUND,
    max_pixels: int | None = None,
) -> np.ndarray:
    """Read one image like `open_image`, as an array.

    Returns:
        Contiguous, writable uint8 pixels, (C, H, W).

    Raises:
        BrokenImage: If the image cannot be read.
        ValueError: If image files cannot have ``in_chans`` channels.
    """
    image = open_image(
        value,
        in_chans,
        short_side,
        value_range=value_range,
        background=background,
        max_pixels=max_pixels,
    )
    if isinstance(image, np.ndarray):
        return image
    # np.asarray of a Pillow image takes as long as decoding a small one
    pixels = np.frombuffer(image.tobytes(), np.uint8)
    return pixels.reshape(image.height, image.width, in_chans).transpose(2, 0, 1).copy()


def open_image(
    value: object,
    in_chans: int,
    short_side: int | None = None,
    *,
    value_range: tuple[float, float] | None = None,
    background: str | None = BACKGROUND,
    max_pixels: int | None = None,
) -> PIL.Image.Image | np.ndarray:
    """Read one image in the channels asked for, upright and in 8 bits.

    An image file is rotated by its EXIF orientation and converted. 16-bit grayscale is scaled over
    its full range, floats must lie in [0, 1], and transparent pixels are laid on the background
    except for RGBA.

    An array must have the channels asked for, first or last (first if both fit). uint8 is kept,
    uint16 divided by 257, bool multiplied by 255, floats in [0, 1] multiplied by 255; other
    integers must lie in 0..255. So must a TIFF file for other channels than 1, 3 and 4, which needs
    the extra ``tiff``.

    Args:
        value: A cell of a source's image column: ``{"bytes": ..., "path": ...}``, the bytes or
            path of an image or .npy file (or a URL that ``datasets`` reads), or an array or
            nested list, (H, W), (C, H, W) or (H, W, C).
        in_chans: Channels, C; 1 (gray), 3 (RGB) or 4 (RGBA) for image files, any for arrays and
            TIFF files.
        short_side: Most pixels of the shorter side. A larger image is shrunk, antialiased
            bilinear; a smaller one keeps its size.
        value_range: Stored values that become 0 and 255, whatever the type of the image, 8 bits
            included; values between are scaled linearly, and values beyond are clipped. NaN becomes
            0. bool and transparency have no range.
        background: Color behind transparent pixels of image files, such as ``white`` or
            ``#ff8800``; ``drop`` takes the colors stored beneath.
        max_pixels: Most pixels of an image; ``2 * PIL.Image.MAX_IMAGE_PIXELS`` if None.

    Returns:
        A Pillow image in mode L, RGB or RGBA; for arrays, and TIFF files of other channels, uint8
        pixels, (C, H, W).

    Raises:
        BrokenImage: If the image cannot be read, has more than ``max_pixels`` pixels, a side of 0,
            or one more than 32 times the other.
        ValueError: If image files cannot have ``in_chans`` channels, or there is no such color.
    """
    color_of(background)
    with broken_if_it_fails():
        content = content_of(value)
        if isinstance(content, np.ndarray):
            array = eight_bits(channels_first(content, in_chans, max_pixels), value_range)
            return shrink_array(array, short_side)
        if in_chans not in PIL_MODES and is_tiff(content):
            array = eight_bits(read_tiff(content, in_chans, max_pixels), value_range)
            return shrink_array(array, short_side)
    mode = pil_mode(in_chans)
    with broken_if_it_fails(), no_pil_warnings, content:
        try:
            return _read_picture(content, mode, short_side, value_range, background, max_pixels)
        except (BrokenImage, MemoryError):
            raise
        except Exception as error:
            if not _may_tifffile_read(content, error):
                raise
            array = _read_tiff_picture(content, in_chans, max_pixels, error)
            picture = _tiff_picture(array, tiff_alpha(content), mode, value_range, background)
        shrunk = shrunk_size(picture.height, picture.width, short_side)
        return picture if shrunk is None else picture.resize(shrunk[::-1], Resampling.BILINEAR)


def stored_values(
    value: object, in_chans: int, max_pixels: int | None = None, *, deep_only: bool = False
) -> tuple[np.ndarray, float] | None:
    """Return the numbers of an image as they are stored, without transparency.

    Args:
        value: As for `open_image`.
        in_chans: Channels, as for `open_image`.
        max_pixels: Most pixels of an image.
        deep_only: Leave images of 8 bits alone.

    Returns:
        Numbers, in any shape, and the largest that their type holds, which is 1 for floats; None
        for an image of 8 bits that is to be left alone.

    Raises:
        BrokenImage: If the image cannot be read.
        ValueError: If image files cannot have ``in_chans`` channels.
    """
    with broken_if_it_fails():
        content = content_of(value)
        if isinstance(content, np.ndarray):
            array = channels_first(content, in_chans, max_pixels)
            return _of_type(array, deep_only)
        if in_chans not in PIL_MODES and is_tiff(content):
            return _of_type(read_tiff(content, in_chans, max_pixels), deep_only)
    mode = pil_mode(in_chans)
    with broken_if_it_fails(), no_pil_warnings, content:
        try:
            image = open_picture(content)
            check_size(image.height, image.width, max_pixels)
            check_work(image, content)
            beyond = is_beyond_pillow(image, mode, deep=True)
        except PIL.UnidentifiedImageError:
            if not is_tiff(content):
                raise
            beyond = True
        if beyond:
            return _of_type(read_tiff(content, in_chans, max_pixels), deep_only)
        deep = deep_values(image)
        if deep is not None:
            return (deep.values[..., :-1] if deep.alpha else deep.values), deep.full
        if deep_only:
            return None
        shown = convert_image(image, "L" if mode == "L" else "RGB", background=DROP)
        return np.asarray(shown), 255.0


def _of_type(array: np.ndarray, deep_only: bool) -> tuple[np.ndarray, float] | None:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "buif":
        raise BrokenImage(f"an array of {array.dtype} is no image")
    full = 1.0 if kind == "f" else 65535.0 if kind == "u" and size == 2 else 255.0
    return None if deep_only and full == 255 else (array, full)


class _NotForPillow(Exception):
    """Pillow would read less than there is."""


def _read_picture(
    file: BinaryIO,
    mode: str,
    short_side: int | None,
    value_range: tuple[float, float] | None,
    background: str | None,
    max_pixels: int | None,
) -> PIL.Image.Image:
    with open_picture(file) as image:
        check_size(image.height, image.width, max_pixels)
        check_work(image, file)
        if is_beyond_pillow(image, mode, deep=value_range is not None):
            raise _NotForPillow
        shrunk = shrunk_size(image.height, image.width, short_side)
        box = None
        if shrunk is not None and image.format in ("JPEG", "MPO"):
            # it decodes to 1/2, 1/4 or 1/8 at a fraction of the cost, if that is large enough
            drafted = image.draft(None, (short_side, short_side))
            box = drafted[1] if drafted else None
        # see deep_values and with_scaled_key
        if image.format not in ("PNG", "PPM") or (
            value_range is None and "transparency" not in image.info
        ):
            image.load()
            check_size(image.height, image.width, max_pixels)  # icons tell it only now
        converted = convert_image(image, mode, value_range, background)
        image.load()  # metadata may stand at the end
        turn = None
        if hasattr(image, "tag_v2") or not _EXIF_KEYS.isdisjoint(image.info):
            turn = _TURNS.get(image.getexif().get(Base.Orientation))
        if shrunk is not None:
            converted = converted.resize(shrunk[::-1], Resampling.BILINEAR, box)
        return converted if turn is None else converted.transpose(turn)


def _may_tifffile_read(file: BinaryIO, error: Exception) -> bool:
    """Return whether tifffile is worth a try, or to be named, after an error of Pillow."""
    if getattr(error, "errno", None) in OUR_FAULT or file.closed or not is_tiff(file):
        return False
    return has_tifffile() or isinstance(error, _NotForPillow | PIL.UnidentifiedImageError)


def _read_tiff_picture(
    file: BinaryIO, in_chans: int, max_pixels: int | None, failure: Exception
) -> np.ndarray:
    """Read with tifffile what Pillow failed to read; (C, H, W)."""
    try:
        return read_tiff(file, in_chans, max_pixels)
    except Exception:
        if isinstance(failure, _NotForPillow | PIL.UnidentifiedImageError):
            raise
        raise failure from None  # the file is damaged


def _tiff_picture(
    array: np.ndarray,
    alpha: str | None,
    mode: str,
    value_range: tuple[float, float] | None,
    background: str | None,
) -> PIL.Image.Image:
    """Make a picture of stored numbers, (C, H, W); 4 of them are RGB and opacity, if any."""
    color = color_of(background)
    if len(array) < 4 or mode == "RGBA":
        pixels = np.moveaxis(eight_bits(array, value_range), 0, -1)
        picture = PIL.Image.fromarray(pixels[..., 0] if len(array) == 1 else pixels.copy())
        return picture.convert(mode)
    colors, opacity = array[:3], array[3:]
    if alpha == PREMULTIPLIED:
        full = 1.0 if array.dtype.kind == "f" else float(np.iinfo(array.dtype).max)
        share = opacity / full
        colors = np.divide(colors, share, out=np.zeros(colors.shape), where=share > 0)
        value_range = value_range or (0.0, full)
    colors = eight_bits(colors, value_range)
    if alpha is None or color is None:
        return PIL.Image.fromarray(np.moveaxis(colors, 0, -1).copy()).convert(mode)
    pixels = np.concatenate([colors, eight_bits(opacity)])
    return on_color(PIL.Image.fromarray(np.moveaxis(pixels, 0, -1).copy()), color).convert(mode)

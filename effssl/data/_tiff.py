"""TIFF files that Pillow does not read: of any number of channels, or of deep color."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from operator import add
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import PIL.Image
from PIL.ExifTags import Base

from effssl.data._pixels import PIL_MODES, BrokenImage, WrongChannels, check_size
from effssl.data._suffixes import TIFF_EXTRA, has_tifffile

if TYPE_CHECKING:
    from tifffile import TiffPage, TiffPageSeries

PREMULTIPLIED = "premultiplied"
_MAGIC = {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}
_TURNS = {
    2: lambda a: a[..., ::-1],
    3: lambda a: a[..., ::-1, ::-1],
    4: lambda a: a[..., ::-1, :],
    5: lambda a: a.swapaxes(-1, -2),
    6: lambda a: np.rot90(a, -1, (-2, -1)),
    7: lambda a: a[..., ::-1, ::-1].swapaxes(-1, -2),
    8: lambda a: np.rot90(a, 1, (-2, -1)),
}  # to upright, by orientation
_GRAY, _COLOR = {"L", "I", "I;16", "I;16B", "F"}, {"RGB", "RGBA", "RGBX"}  # modes
_SMALL_CLAIM, _MOST_RATIO = 2**28, 5000  # bytes that are believed, and of what is there
_GRAY_OR_RGB = {1, 2}  # photometric interpretations whose numbers need no conversion


class _Layout(NamedTuple):
    """Pixels of a file, and their axes of channels, rows and columns."""

    pixels: TiffPage | TiffPageSeries
    orientation: int
    channel: int | None
    row: int
    column: int

    def shape(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""
        shape = self.pixels.shape
        channels = 1 if self.channel is None else shape[self.channel]
        return channels, shape[self.row], shape[self.column]


def is_tiff(file: BinaryIO) -> bool:
    """Return whether a file begins as a TIFF."""
    file.seek(0)
    magic = file.read(4)
    file.seek(0)
    return magic in _MAGIC


def is_beyond_pillow(image: PIL.Image.Image, mode: str, deep: bool) -> bool:
    """Return whether Pillow opens a file, but would drop a channel or bits of it.

    Args:
        image: Image.
        mode: Mode that is asked for.
        deep: Whether more than 8 bits of color are asked for.
    """
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return False
    samples, bits = tags.get(Base.SamplesPerPixel, 1), tags.get(Base.BitsPerSample, (1,))
    if image.mode in _COLOR:
        dropped = image.mode == "RGBX" or samples > len(image.getbands())
        return (dropped and mode == "RGBA") or (deep and max(bits) > 8)
    return image.mode in _GRAY and samples > 2  # of channels in planes it reads the first one


def read_tiff(file: BinaryIO, in_chans: int, max_pixels: int | None) -> np.ndarray:
    """Return the stored numbers of the first image of a TIFF file, upright, (C, H, W).

    Args:
        file: Open file.
        in_chans: Channels that it must have. Any of 1, 3 and 4 will do for one of them, since
            Pillow converts between these.
        max_pixels: Most pixels that it may have.

    Raises:
        WrongChannels: If it has another number of channels.
        BrokenImage: If tifffile is not installed or cannot read the file.
    """
    with _open(file) as layout:
        channels, height, width = layout.shape()
        check_size(height, width, max_pixels)
        if channels != in_chans and not {channels, in_chans} <= PIL_MODES.keys():
            raise WrongChannels(
                f"a TIFF file of {channels} channels does not have in_chans={in_chans}"
            )
        _check_claim(layout)
        array = layout.pixels.asarray(maxworkers=1)  # other images are decoded beside it
    axes = [layout.row, layout.column]
    if layout.channel is not None:
        axes.insert(0, layout.channel)
    others = [axis for axis in range(array.ndim) if axis not in axes]
    array = array.transpose(*others, *axes).reshape(channels, height, width)
    return _TURNS.get(layout.orientation, np.asarray)(array)


def _check_claim(layout: _Layout) -> None:
    """Raise `BrokenImage` if so many numbers cannot be in the bytes there."""
    pixels = layout.pixels
    pages = getattr(pixels, "pages", [pixels])
    there = sum(sum(page.databytecounts) for page in pages if page)
    claimed = math.prod(pixels.shape) * pixels.dtype.itemsize
    if claimed > max(_SMALL_CLAIM, _MOST_RATIO * there):
        raise BrokenImage(f"claims {claimed:,} bytes of pixels and holds {there:,}")


def tiff_alpha(file: BinaryIO) -> str | None:
    """Return how the fourth channel of a TIFF file of colors makes them transparent.

    Returns:
        ``premultiplied`` if colors are stored times opacity, else ``straight``; None for a channel
        of something else.
    """
    with _open(file) as layout:
        page = getattr(layout.pixels, "keyframe", layout.pixels)
        kinds = [int(kind) for kind in page.extrasamples]
    # Pillow takes a channel of an unsaid kind for opacity, too
    return {0: None, 1: PREMULTIPLIED}.get(kinds[0], "straight") if kinds else "straight"


def tiff_size(file: BinaryIO) -> tuple[int, int]:
    """Return the height and width of the first image of a TIFF file.

    Raises:
        BrokenImage: If tifffile is not installed or cannot read the header.
    """
    with _open(file) as layout:
        return layout.shape()[1:]


@contextmanager
def _open(file: BinaryIO) -> Iterator[_Layout]:
    if not has_tifffile():
        raise BrokenImage(f"a TIFF file that Pillow cannot read: {TIFF_EXTRA}")
    from tifffile import TiffFile

    # it logs whatever is odd about a file; what matters is the reason that an image is broken for
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    file.seek(0)
    with TiffFile(file) as tiff:
        page = tiff.pages[0]
        if int(page.photometric) not in _GRAY_OR_RGB:
            raise BrokenImage(f"a TIFF file of photometric interpretation {page.photometric!s}")
        series = tiff.series[0]
        layout = _layout(series, page) or _layout(page, page)
        if layout is None:
            raise BrokenImage(f"a TIFF file of axes {page.axes} and shape {page.shape}")
        size = file.seek(0, os.SEEK_END)
        for part in series.pages:  # what is missing would be read as zeros
            if part and any(map(size.__lt__, map(add, part.dataoffsets, part.databytecounts))):
                raise BrokenImage("the TIFF file is truncated")
        yield layout


def _layout(pixels: TiffPage | TiffPageSeries, page: TiffPage) -> _Layout | None:
    """Find the axes; None if more than one of them may be that of channels."""
    axes, shape = pixels.axes, pixels.shape
    if "Y" not in axes or "X" not in axes:
        return None
    others = [i for i, axis in enumerate(axes) if axis not in "YX" and shape[i] > 1]
    if len(others) > 1:
        return None
    channel = others[0] if others else None
    orientation = page.tags.valueof(Base.Orientation, 1)
    return _Layout(pixels, orientation, channel, axes.index("Y"), axes.index("X"))

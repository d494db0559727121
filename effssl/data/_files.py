"""Image files as Pillow opens them, without its limit of pixels and with HEIF."""

from __future__ import annotations

import struct
from typing import BinaryIO

import PIL.Image

from effssl.data._gif import check_comments
from effssl.data._jpeg import check_scans
from effssl.data._pixels import BrokenImage
from effssl.data._suffixes import HEIC_EXTRA, NOT_DECODED, lacking_extra, register_heif

_HEIF = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}


def open_picture(file: BinaryIO) -> PIL.Image.Image:
    """Open an image file without reading its pixels. Its size is for the caller to check.

    Raises:
        BrokenImage: If it needs a package that is not installed, or has absurd comments.
        PIL.UnidentifiedImageError: If it is no image that Pillow knows.
    """
    check_comments(file)
    image = _open(file)
    if image.format in NOT_DECODED:
        raise BrokenImage(f"a file of the format {image.format}, which other programs decode")
    return image


def check_work(image: PIL.Image.Image, file: BinaryIO) -> None:
    """Raise `BrokenImage` if an open picture takes far more time to decode than its size says."""
    if image.format in ("JPEG", "MPO"):
        check_scans(file)


def _open(file: BinaryIO) -> PIL.Image.Image:
    try:
        return PIL.Image.open(file)
    except PIL.Image.DecompressionBombError:
        return _open_any_size(file)
    except PIL.UnidentifiedImageError:
        file.seek(0)
        head = file.read(12)
        brand = head[8:] if head[4:8] == b"ftyp" else b""
        if brand in _HEIF and register_heif():
            return _open_any_size(file)
        if brand in _HEIF:
            raise BrokenImage(f"a HEIF file: {HEIC_EXTRA}") from None
        if brand in _AVIF and lacking_extra(".avif") is not None:
            raise BrokenImage(f"an AVIF file: {lacking_extra('.avif')}") from None
        raise


def _open_any_size(file: BinaryIO) -> PIL.Image.Image:
    """Do what `PIL.Image.open` does apart from its check of the size.

    The check could also be turned off, but only for all threads of the process.
    """
    file.seek(0)
    head = file.read(16)
    for kind in tuple(PIL.Image.ID):
        plugin, accept = PIL.Image.OPEN[kind]
        try:
            accepted = accept is None or accept(head)
            if accepted and not isinstance(accepted, str):  # a string says why not
                file.seek(0)
                return plugin(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # as Pillow does: another plugin may open it
    raise PIL.UnidentifiedImageError("cannot identify image file")

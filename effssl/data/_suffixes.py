"""Suffixes of the image files that can be decoded here, and what others need."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import PIL.Image

NPY = ".npy"
TIFF_EXTRA = "pip install 'effssl[tiff]'"
HEIC_EXTRA = "pip install 'effssl[heic]'"
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow knows, but leaves to other programs, which run on what a file says."""
_NEEDED = {
    **dict.fromkeys((".heic", ".heics", ".heif", ".heifs", ".hif"), HEIC_EXTRA),
    **dict.fromkeys((".avif", ".avifs"), "pip install 'pillow>=11.3'"),
}


@cache
def register_heif() -> bool:
    """Let Pillow open HEIF files, for the rest of the process.

    Returns:
        Whether it can: pillow-heif is an extra.
    """
    if find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def has_tifffile() -> bool:
    """Return whether tifffile is installed: it is an extra."""
    return find_spec("tifffile") is not None


def is_installed_now(reason: str) -> bool:
    """Return whether an image is said to be broken for want of an extra that is installed now."""
    return (HEIC_EXTRA in reason and register_heif()) or (TIFF_EXTRA in reason and has_tifffile())


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the files that can be decoded here, in lower case, with the dot.

    They are those of Pillow's plugins that decode by themselves, .npy, and those of HEIF if
    pillow-heif is installed.
    """
    register_heif()
    PIL.Image.init()
    kinds = PIL.Image.registered_extensions()
    found = {s for s, kind in kinds.items() if kind in PIL.Image.OPEN and kind not in NOT_DECODED}
    return frozenset(found | {NPY})


def lacking_extra(suffix: str) -> str | None:
    """Return what to install for a suffix of images that cannot be decoded here.

    Args:
        suffix: Suffix with the dot, in lower or upper case.

    Returns:
        A pip command; None if the files can be decoded, or are no images.
    """
    suffix = suffix.lower()
    return None if suffix in image_suffixes() else _NEEDED.get(suffix)

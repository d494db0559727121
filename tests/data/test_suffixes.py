"""Suffixes of image files."""

import subprocess
import sys

import PIL.Image
import pytest

from effssl.data import _suffixes
from effssl.data._suffixes import image_suffixes, lacking_extra


def test_suffixes_are_those_of_files_that_decode():
    found = image_suffixes()
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".npy"} <= found
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in found)
    # a label, a film, or a file that Pillow hands to another program, or only writes
    others = {".txt", ".mp4", ".mpg", ".h5", ".hdf", ".grib", ".bufr", ".wmf", ".emf", ".eps"}
    assert not found & (others | {".ps", ".pdf", ".palm", ".xml", ".csv", ".zip", ""})


def test_every_suffix_of_pillow_has_a_plugin_that_opens():
    for suffix in image_suffixes() - {".npy"}:
        assert PIL.Image.registered_extensions()[suffix] in PIL.Image.OPEN


def test_heif_is_among_them_with_its_extra():
    pytest.importorskip("pillow_heif")
    assert {".heic", ".heif"} <= image_suffixes()
    assert lacking_extra(".heic") is None


def test_an_image_that_needs_an_extra_says_which():
    program = """
import sys
sys.modules["pillow_heif"] = None  # as if it were not installed
from effssl.data._suffixes import image_suffixes, lacking_extra
assert not {".heic", ".heif"} & image_suffixes()
for suffix in (".heic", ".HEIC", ".hif"):
    assert lacking_extra(suffix) == "pip install 'effssl[heic]'", lacking_extra(suffix)
for suffix in (".png", ".JPG", ".txt", ".mp4", ""):
    assert lacking_extra(suffix) is None
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=100)


def test_without_avif_a_newer_pillow_is_named(monkeypatch):
    without = image_suffixes() - {".avif", ".avifs"}
    monkeypatch.setattr(_suffixes, "image_suffixes", lambda: without)
    assert lacking_extra(".avif") == "pip install 'pillow>=11.3'"

"""Cells of an image column, and errors and warnings of reading them."""

from __future__ import annotations

import errno
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from typing import BinaryIO

import numpy as np
import PIL.Image

from effssl.data._npy import MAGIC, array_in_bytes, array_in_file
from effssl.data._paths import MOST_BYTES, open_cell, read_at_most, shown
from effssl.data._pixels import BrokenImage
from effssl.shown import one_line

# the process has run out of something, which says nothing about the image
OUR_FAULT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def image_name(value: object, place: str) -> str:
    """Return a name for messages: ``photos/a.png (row 12)``, or the place alone.

    A path is not enough: webdataset has none, and in some data sets all are the same.
    """
    path = value.get("path") if isinstance(value, dict) else value
    return f"{shown(path)} ({place})" if isinstance(path, str) and path else place


def content_of(value: object, header_only: bool = False) -> np.ndarray | BinaryIO:
    """Return an open image file, or the array that the cell holds or names."""
    path = None
    if isinstance(value, dict):
        value, path = value.get("bytes"), value.get("path")
    if isinstance(value, str):
        value, path = None, value
    if value is None and path is None:
        raise BrokenImage("the cell is empty")
    if value is None:
        return _content_of_file(open_cell(path), header_only)
    if not isinstance(value, bytes | bytearray | memoryview):
        return np.asarray(value)
    return array_in_bytes(value) if value[: len(MAGIC)] == MAGIC else BytesIO(value)


def _content_of_file(file: BinaryIO, header_only: bool) -> np.ndarray | BinaryIO:
    """Return an open image file, or its content as one, or the array in it."""
    is_local = isinstance(file, BufferedReader)  # a file of this machine, and not of an archive
    keeps_open = False
    try:
        is_array = file.read(len(MAGIC)) == MAGIC
        if is_array and is_local:
            return array_in_file(file)
        file.seek(0)
        is_large = is_local and os.fstat(file.fileno()).st_size > MOST_BYTES
        # what decodes a large file reads what it needs
        if not is_array and (header_only or is_large or isinstance(file, BytesIO)):
            keeps_open = True
            return file
        value = file.read() if is_local else read_at_most(file, MOST_BYTES)
        return array_in_bytes(value) if is_array else BytesIO(value)
    finally:
        if not keeps_open:
            file.close()


@contextmanager
def broken_if_it_fails() -> Iterator[None]:
    """Raise whatever a decoder raises as `BrokenImage`, except what is no fault of the image."""
    try:
        yield
    except (BrokenImage, MemoryError):
        raise
    except PIL.UnidentifiedImageError as error:
        raise BrokenImage("not an image of a known format") from error
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        if getattr(error, "errno", None) in OUR_FAULT:
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BrokenImage(one_line(reason)) from error


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


no_pil_warnings = _NoPilWarnings()

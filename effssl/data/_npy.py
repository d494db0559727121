"""Arrays in .npy files; what a header claims is compared with the bytes there first."""

from __future__ import annotations

import math
import os
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np

from effssl.data._pixels import BrokenImage
from effssl.shown import shown

MAGIC = b"\x93NUMPY"
"""First bytes of an .npy file."""
_MOST_HEADER = 10_000  # bytes, as for numpy itself
# by version: bytes of the length of the header, and what reads it. Later ones hold no numbers.
_READERS = {
    (1, 0): (2, np.lib.format.read_array_header_1_0),
    (2, 0): (4, np.lib.format.read_array_header_2_0),
}


class _Header(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    order: str
    start: int


def array_in_bytes(content: bytes | bytearray | memoryview) -> np.ndarray:
    """Return the array of an .npy file in memory, which is not copied.

    Raises:
        BrokenImage: If it is not whole, or does not hold numbers.
    """
    header = _header(BytesIO(content), len(content))
    count = math.prod(header.shape)
    flat = np.frombuffer(content, header.dtype, count, header.start)
    return flat.reshape(header.shape, order=header.order)


def array_in_file(file: BinaryIO) -> np.ndarray:
    """Return the array of an open .npy file, which is mapped to memory.

    Raises:
        BrokenImage: If it is not whole, or does not hold numbers.
    """
    file.seek(0)
    header = _header(file, os.fstat(file.fileno()).st_size)
    return np.memmap(file, header.dtype, "r", header.start, header.shape, header.order)


def _header(file: BinaryIO, size: int) -> _Header:
    head = file.read(12)
    if tuple(head[6:8]) not in _READERS:
        raise BrokenImage("an .npy file of an unknown version")
    width, read = _READERS[tuple(head[6:8])]
    if int.from_bytes(head[8 : 8 + width], "little") > _MOST_HEADER:
        raise BrokenImage(f"an .npy file whose header is longer than {_MOST_HEADER:,} bytes")
    file.seek(8)
    try:
        shape, is_fortran, dtype = read(file)
    except (MemoryError, RecursionError) as error:  # of what parses the text of the header
        raise BrokenImage("an .npy file whose header cannot be parsed") from error
    if dtype.kind not in "buif":
        kind = "Python objects" if dtype.hasobject else shown(str(dtype))[1:-1]
        raise BrokenImage(f"an .npy file of {kind} is no image")
    start = file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size - start:
        raise BrokenImage(
            f"an array of shape {shown(shape)} and type {dtype} is not in the {size - start:,} "
            "bytes there"
        )
    return _Header(dtype, shape, "F" if is_fortran else "C", start)

"""The number of scans in a JPEG file, by which the time to decode it grows."""

from __future__ import annotations

import re
from typing import BinaryIO

from effssl.data._pixels import BrokenImage

MOST_SCANS = 100
"""Most scans of a JPEG file; progressive ones have about 10."""
_SCAN = b"\xff\xda"
_CHUNK = 2**20  # bytes
# compressed data has a zero after 255, or one of the marks D0 to D7
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_END, _ALONE = 0xD9, {0x01, 0xD8}  # markers without a length


def check_scans(file: BinaryIO) -> None:
    """Raise `BrokenImage` if a JPEG file has too many scans; its position stays."""
    position = file.tell()
    try:
        if _most_scans(file) > MOST_SCANS:  # which counts thumbnails, too
            file.seek(0)
            if _scans(file.read()) > MOST_SCANS:
                raise BrokenImage(f"a JPEG file of more than {MOST_SCANS} scans")
    finally:
        file.seek(position)


def _most_scans(file: BinaryIO) -> int:
    """Return how often the marker of a scan is there, whatever it means."""
    file.seek(0)
    count, last = 0, b""
    while chunk := file.read(_CHUNK):
        chunk = last + chunk
        count += chunk.count(_SCAN)
        last = chunk[-1:]
    return count


def _scans(content: bytes) -> int:
    """Return the number of scans of the first image, as far as it is of any interest."""
    count, place = 0, 2
    while count <= MOST_SCANS and (found := _MARKER.search(content, place)):
        kind, place = found[1][0], found.end()
        if kind == _END:
            break
        if kind not in _ALONE:
            count += kind == _SCAN[1]
            place += max(2, int.from_bytes(content[place : place + 2], "big"))
    return count

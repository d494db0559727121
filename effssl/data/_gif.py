"""The comments of a GIF file, which Pillow joins in time that grows with their square."""

from __future__ import annotations

from typing import BinaryIO

from effssl.data._pixels import BrokenImage

MOST_PARTS = 1000
"""Most comments and blocks of comments of a GIF file before its image; a block has 255 bytes."""
_EXTENSION, _IMAGE, _END = b"!", b",", b";"
_COMMENT, _APPLICATION = b"\xfe", b"\xff"


def check_comments(file: BinaryIO) -> None:
    """Raise `BrokenImage` if a GIF file has absurd comments; its position stays."""
    position = file.tell()
    try:
        file.seek(0)
        head = file.read(13)
        if head[:6] not in (b"GIF87a", b"GIF89a") or len(head) < 13:
            return
        if head[10] & 128:  # a palette
            file.seek(3 << (head[10] & 7) + 1, 1)
        _walk(file)
    finally:
        file.seek(position)


def _walk(file: BinaryIO) -> None:
    """Read what stands before the image in the same steps as Pillow, which skips odd bytes."""
    parts = 0
    while (mark := file.read(1)) not in (b"", _END, _IMAGE):
        if mark != _EXTENSION:
            continue
        label, block = file.read(1), _block(file)
        if label == _COMMENT:
            parts += 1
        elif label == _APPLICATION and block.startswith(b"NETSCAPE2.0"):
            _block(file)
        if label != _COMMENT:
            block = _block(file)
        while block:
            parts += label == _COMMENT
            if parts > MOST_PARTS:
                break
            block = _block(file)
        if parts > MOST_PARTS:
            raise BrokenImage(f"a GIF file of more than {MOST_PARTS:,} blocks of comments")


def _block(file: BinaryIO) -> bytes:
    return file.read((file.read(1) or b"\0")[0])

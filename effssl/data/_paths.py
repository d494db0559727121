"""Paths of images as cells hold them: plain, or a URL where a name is no text or in an archive.

A cell holds text, and so does a log. A plain path is its own cell. A path that is not UTF-8, or
that reads like a URL, becomes ``file:///folder/caf%E9.png``, and a file in an archive
``zip+file:///folder/photos.zip#cat/1.png``.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import quote_from_bytes, unquote_to_bytes

from effssl.foreign import open_regular
from effssl.shown import plain

_FILE, _MEMBER, _OUTSIDE = "file://", "zip+file://", "outside://"
MOST_BYTES = 2**31
"""Most bytes of an image file that are read into memory, or unpacked of an archive."""
_MOST_RATIO = 1100  # of bytes to compressed ones, which deflate does not reach
_CHUNK, _SMALL_CHUNK = 2**20, 2**12  # bytes read at a time; other methods have no bound of a ratio


def file_cell(path: str) -> str:
    """Return the cell of a file.

    Args:
        path: Absolute path, with undecodable bytes as surrogates, as `os.fsdecode` gives it.
    """
    if "://" not in path and "::" not in path and path.isprintable():
        return path
    return _FILE + _quote(path)


def member_cell(archive: str, member: str) -> str:
    """Return the cell of a file in a zip archive.

    Args:
        archive: Absolute path of the archive, as for `file_cell`.
        member: Name of the file in the archive.
    """
    return f"{_MEMBER}{_quote(archive)}#{_quote(member)}"


def outside_cell(path: str) -> str:
    """Return the cell of a file that its data set may not name, which cannot be opened."""
    return _OUTSIDE + quote_from_bytes(path.encode("utf-8", "surrogatepass"))


def is_own_url(cell: str) -> bool:
    """Return whether a cell is a URL of this module, which only this module opens."""
    return cell.startswith((_FILE, _MEMBER))


def is_url(cell: str) -> bool:
    """Return whether a cell is neither a path nor one of the URLs of this module."""
    return "://" in cell and not cell.startswith((_FILE, _MEMBER, _OUTSIDE))


def file_of(cell: str) -> str:
    """Return the path of the file that a cell names, or of the archive that holds it."""
    if cell.startswith((_FILE, _MEMBER)):
        return _unquote(cell.partition("://")[2].partition("#")[0])
    if cell.startswith(_OUTSIDE):
        return cell
    # as datasets names files in archives: zip://photo.png::archive.zip
    return cell.rpartition("::")[2] if "://" in cell else cell


def member_of(cell: str) -> str | None:
    """Return the name that a file has in its archive, or None if it is in none."""
    if cell.startswith(_MEMBER):
        return _unquote(cell.partition("#")[2])
    return cell.rpartition("::")[0] if is_url(cell) and "::" in cell else None


def shown(cell: str, root: str | None = None) -> str:
    r"""Return the path of a cell as text for people.

    Args:
        cell: Cell of `file_cell` or `member_cell`, or any other path.
        root: Folder to leave out at the beginning.

    Returns:
        Path with ``/`` between an archive and the names in it. Bytes that are not UTF-8 and
        characters that cannot be printed are escaped, such as ``caf\xe9.png``.
    """
    if is_url(cell):
        return printable(cell)
    if cell.startswith(_OUTSIDE):
        name = unquote_to_bytes(cell.removeprefix(_OUTSIDE)).decode("utf-8", "backslashreplace")
        return printable(name)
    path = file_of(cell)
    if cell.startswith(_MEMBER):
        path = f"{path}/{member_of(cell)}"
    if root is not None and path.startswith(os.path.join(root, "")):
        path = path[len(os.path.join(root, "")) :]
    return printable(path)


def printable(name: str) -> str:
    """Return a file name of one line, with bytes that are not UTF-8 and control characters escaped.

    See `effssl.shown.plain` for what is escaped.
    """
    if name.isprintable():
        return name
    # bytes that are not UTF-8 are surrogates, of which there are others in text from elsewhere
    text = name.encode("utf-8", "surrogateescape" if _is_name(name) else "backslashreplace")
    decoded = text.decode("utf-8", "backslashreplace")
    return plain(decoded, most=10 * len(decoded))


def _is_name(text: str) -> bool:
    return not any("\ud800" <= c < "\udc80" or "\udcff" < c <= "\udfff" for c in text)


def open_cell(cell: str) -> BinaryIO:
    """Open the file of a cell, wherever it lies, if it is a regular one.

    Raises:
        OSError: If there is no such file.
        KeyError: If the archive has no such member.
        ValueError: If it is not a regular file, not one of the data set, or more than `MOST_BYTES`
            of an archive.
    """
    if cell.startswith(_OUTSIDE):
        raise ValueError("names a file outside of the data set")
    if cell.startswith(_MEMBER):
        return io.BytesIO(_read_member(_archive(file_of(cell)), member_of(cell)))
    if not is_url(cell):
        return _open_regular(file_of(cell))
    for part in cell.split("::"):
        kind, _, file = part.rpartition("://")
        if kind in ("", "file", "local"):
            _open_regular(file).close()
    # as datasets.Image opens them: hf://, https://, zip://photo.png::archive.zip; not public
    from datasets.utils.file_utils import xopen

    if "::" not in cell:
        return xopen(cell, "rb")
    with xopen(cell, "rb") as file:
        return io.BytesIO(read_at_most(file, MOST_BYTES, _SMALL_CHUNK))


def read_at_most(file: IO[bytes], most: int, chunk: int = _CHUNK) -> bytes:
    """Read a file to its end, in steps, since some of what unpacks does not count its output.

    Args:
        file: File to read.
        most: Most bytes that it may have.
        chunk: Bytes that are asked for at a time.

    Raises:
        ValueError: If it has more.
    """
    content = bytearray()
    while part := file.read(chunk):
        content += part
        if len(content) > most:
            raise ValueError(f"is more than {most:,} bytes when it is unpacked")
    return bytes(content)


def _open_regular(path: str) -> BinaryIO:
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a device may be to use it
        raise ValueError("is not a regular file")
    return open_regular(Path(path))


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a file in an archive, within the bounds of what an image may be."""
    info = archive.getinfo(name)
    if info.file_size > min(MOST_BYTES, _MOST_RATIO * info.compress_size):
        raise ValueError(
            f"claims {info.file_size:,} bytes of {info.compress_size:,} in the archive; at most "
            f"{MOST_BYTES:,}, and {_MOST_RATIO:,} times as many, are unpacked"
        )
    bounded = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    with archive.open(info) as file:
        return read_at_most(file, info.file_size, _CHUNK if bounded else _SMALL_CHUNK)


def _quote(path: str) -> str:
    return quote_from_bytes(os.fsencode(path))


def _unquote(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(text))


@lru_cache(maxsize=32)
def _archive(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(_ForkSafeFile(path))


class _ForkSafeFile(io.RawIOBase):
    """File with a position of its own in each process; forked workers share that of the system."""

    def __init__(self, path: str) -> None:
        self._file = _open_regular(path)  # closed with this object
        self._size, self._position = os.fstat(self._file.fileno()).st_size, 0
        self._lock = threading.Lock()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        if hasattr(os, "preadv"):
            count = os.preadv(self._file.fileno(), [buffer], self._position)
        else:  # systems without it do not fork workers either
            with self._lock:
                self._file.seek(self._position)
                count = self._file.readinto(buffer)
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

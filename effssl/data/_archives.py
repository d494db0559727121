"""Archives of images, read in place; a compressed tar is copied once, to be read in any order."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from huggingface_hub.constants import HF_HOME

from effssl.atomic import replacing
from effssl.data._folders import suffix_of
from effssl.data._locks import locked
from effssl.data._paths import MOST_BYTES, printable
from effssl.data._suffixes import image_suffixes
from effssl.progress import Stage
from effssl.shown import one_line

logger = logging.getLogger(__name__)

_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, lzma.LZMAError, zlib.error)
_DAMAGED += (NotImplementedError, OverflowError, UnicodeDecodeError, struct.error)
_LEFT_FREE = 0.1  # share of the free disk that a copy leaves
_MOST_HEADER = 2**20  # bytes of a long name, or of other headers of a file in a tar
# most bytes of a copy, and of the files in it to which links lead: that times the archive, and more
_MOST_RATIO, _MOST_MORE = 1100, 2**30
_MOST_LINKED_RATIO, _MOST_LINKED_MORE = 10, 2**26
_HEADERS = {
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
}
SUFFIXES = (".zip", *_TARS)
"""Endings of the names of archives, in lower case."""


def is_archive(name: str) -> bool:
    """Return whether a file is an archive of images by its name."""
    return name.lower().endswith(SUFFIXES)


def stem_of(name: str) -> str:
    """Return the name of an archive without its ending."""
    ending = next(ending for ending in SUFFIXES if name.lower().endswith(ending))
    return name[: -len(ending)]


def as_zip(archive: str) -> tuple[str, list[str]]:
    """Return a zip archive with the files of an archive, and their names.

    Args:
        archive: Absolute path. A zip is returned as it is. A compressed tar can only be read from
            front to back: its images are copied, still encoded, to a zip under HF_HOME.

    Raises:
        ValueError: If it is damaged.
        OSError: If it cannot be read, or the copy cannot be written.
    """
    try:
        if archive.lower().endswith(_TARS):
            archive = str(_copied(archive))
        with zipfile.ZipFile(archive) as opened:
            return archive, [info.filename for info in opened.infolist() if not info.is_dir()]
    except _DAMAGED as error:
        raise ValueError(f"{archive} is damaged: {one_line(error)}") from error


def without_common_folder(names: list[str], stem: str) -> tuple[str, list[str]]:
    """Take the folder that holds everything out of the names of files in an archive.

    Most programs put a folder into an archive of the same name. A folder that is called like a
    split and unlike the archive stays.

    Returns:
        What was taken out, such as ``photos/``, and the rest of the names.
    """
    from effssl.data._layout import SPLITS

    tops = {name.partition("/")[0] if "/" in name else "" for name in names}
    (top,) = tops if len(tops) == 1 else ("",)
    if not top or (top.lower() in SPLITS and top.lower() != stem.lower()):
        return "", names
    return f"{top}/", [name[len(top) + 1 :] for name in names]


class _Member(tarfile.TarInfo):
    """A file in a tar whose headers are of a size that can be read."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    @size.setter
    def size(self, size: int) -> None:
        if size < 0:  # which tarfile would follow back, for ever
            raise tarfile.ReadError(f"it has a file of {size:,} bytes")
        self._size = size

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _HEADERS and member.size > _MOST_HEADER:
            raise tarfile.ReadError(f"it has a header of {member.size:,} bytes")
        return member


def _copied(archive: str) -> Path:
    status = os.stat(archive)
    key = json.dumps([os.path.basename(archive), status.st_size, status.st_mtime_ns])
    folder = Path(HF_HOME) / "effssl" / "archives"
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.zip"
    with locked(copy):
        if not copy.exists():
            logger.info(
                "copying the images of %s to %s, to read them in any order", archive, folder
            )
            try:
                with replacing(copy, "wb") as file:
                    _copy(archive, file, folder)
                    file.flush()
                    # the time is part of what images are recognized by: that of a new copy is the
                    # same
                    os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise _no_room(archive, folder) from error
                raise
    return copy


def _copy(archive: str, copy: BinaryIO, folder: Path) -> None:
    """Copy the images of a tar to a zip in a folder without compressing them again."""
    held = os.path.getsize(archive)
    most = _MOST_RATIO * held + _MOST_MORE
    most_linked = _MOST_LINKED_RATIO * held + _MOST_LINKED_MORE
    free = (1 - _LEFT_FREE) * shutil.disk_usage(folder).free
    copied = linked = 0
    with (
        tarfile.open(archive, tarinfo=_Member) as source,
        zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target,
        Stage(f"copy {printable(os.path.basename(archive))}") as stage,
    ):
        for member in source:
            name = _text(member.name.removeprefix("./"))
            if member.isdir() or suffix_of(name) not in image_suffixes():
                continue
            try:
                content = None if member.issparse() else source.extractfile(member)
            except (KeyError, RecursionError):  # a link to what the archive lacks, or to itself
                content = None
            if content is None:
                logger.warning("%s: %s is left: it is no regular file", archive, printable(name))
                continue
            with content:
                size = content.seek(0, os.SEEK_END)  # of a link, that of the file it leads to
                content.seek(0)
                if size > MOST_BYTES:
                    why = f"it has {size:,} bytes, and images have {MOST_BYTES:,} at most"
                    logger.warning("%s: %s is left: %s", archive, printable(name), why)
                    continue
                if not member.isfile() and linked + size > most_linked:
                    logger.warning(
                        "%s: %s is left: links lead to far more than the archive holds",
                        archive,
                        printable(name),
                    )
                    continue
                linked += 0 if member.isfile() else size
                copied += size
                if copied > most:
                    raise ValueError(
                        f"{archive} of {held:,} bytes unpacks to more than {most:,}, which no "
                        "archive of images does"
                    )
                if copied > free:
                    raise _no_room(archive, folder)
                with target.open(zipfile.ZipInfo(name), "w", force_zip64=True) as file:
                    shutil.copyfileobj(content, file)
            stage.update()


def _text(name: str) -> str:
    """Return a name with other bytes than UTF-8 escaped, since a zip holds no such names."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _no_room(archive: str, folder: Path) -> OSError:
    free = shutil.disk_usage(folder).free
    return OSError(
        f"the copy of {archive} does not fit in {folder}, where {free:,} bytes are free: unpack "
        "it, or set HF_HOME to a folder on a disk with room"
    )

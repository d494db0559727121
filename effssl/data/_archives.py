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
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from huggingface_hub.constants import HF_HOME
from tqdm import tqdm

from effssl.atomic import replacing
from effssl.data._folders import suffix_of
from effssl.data._locks import locked
from effssl.data._paths import MOST_BYTES, printable
from effssl.data._suffixes import image_suffixes
from effssl.shown import one_line

logger = logging.getLogger(__name__)

_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, lzma.LZMAError, zlib.error)
_DAMAGED += (NotImplementedError, OverflowError, UnicodeDecodeError, struct.error)
_LEFT_FREE = 0.1  # share of the free disk that a copy leaves
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


def _copied(archive: str) -> Path:
    status = os.stat(archive)
    key = json.dumps([os.path.basename(archive), status.st_size, status.st_mtime_ns])
    folder = Path(HF_HOME) / "effssl" / "archives"
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.zip"
    with locked(copy):
        if not copy.exists():
            partial = copy.with_suffix(".partial")  # under the lock no other process writes it
            partial.unlink(missing_ok=True)
            try:
                _copy(archive, partial)
            except BaseException as error:
                partial.unlink(missing_ok=True)
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                    raise _no_room(archive, folder) from error
                raise
            # the time is part of what images are recognized by, so that a new copy is the same
            os.utime(partial, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.replace(partial, copy)
    return copy


def _copy(archive: str, copy: BinaryIO) -> None:
    """Copy the images of a tar to a zip without compressing them again."""
    with (
        tarfile.open(archive) as source,
        open(copy, "xb") as file,  # which follows no link
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as target,
        tqdm(desc="copy", unit="image", disable=not sys.stderr.isatty()) as bar,
    ):
        for member in source:
            name = member.name.removeprefix("./")
            if member.isdir() or suffix_of(name) not in image_suffixes():
                continue
            if member.size > MOST_BYTES:
                logger.warning("%s: %s is left: %s", archive, printable(name), _too_large(member))
                continue
            _check_room(archive, copy.parent, member.size)
            try:
                content = source.extractfile(member)
            except KeyError:  # a link to what the archive lacks
                content = None
            if content is None:
                logger.warning("%s: %s is left: it is no regular file", archive, printable(name))
                continue
            with content, target.open(zipfile.ZipInfo(name), "w", force_zip64=True) as copied:
                shutil.copyfileobj(content, copied)
            bar.update()


def _too_large(member: tarfile.TarInfo) -> str:
    return f"it has {member.size:,} bytes, and images have {MOST_BYTES:,} at most"


def _check_room(archive: str, folder: Path, size: int) -> None:
    if size > (1 - _LEFT_FREE) * shutil.disk_usage(folder).free:
        raise _no_room(archive, folder)


def _no_room(archive: str, folder: Path) -> OSError:
    free = shutil.disk_usage(folder).free
    return OSError(
        f"the copy of {archive} does not fit in {folder}, where {free:,} bytes are free: unpack "
        "it, or set HF_HOME to a folder on a disk with room"
    )

"""What lies in the caches under HF_HOME, and its deletion."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.constants import HF_HOME

from effssl.atomic import PARTIAL
from effssl.data._cache import ABOUT, FORMAT
from effssl.data._cached_images import INDEX
from effssl.data._locks import locked, unused

_DIGESTS = "digests"


@dataclass(frozen=True)
class CacheEntry:
    """The decoded images of a data set, a copy of an archive, or the digests of all data sets.

    Attributes:
        path: Folder or file.
        bytes: Size of it.
        used: Time of the last use, in seconds since 1970.
        about: What it is, in words.
    """

    path: Path
    bytes: int
    used: float
    about: str

    @property
    def name(self) -> str:
        """Name of the folder or file."""
        return self.path.name


def cache_folder() -> Path:
    """Return the folder of all caches."""
    return Path(HF_HOME) / "effssl"


def list_caches() -> list[CacheEntry]:
    """List what is cached, the longest unused first."""
    folder, entries = cache_folder(), []
    for path in [*(folder / "decoded").glob("*"), *(folder / "archives").glob("*")]:
        with contextlib.suppress(FileNotFoundError):  # another process has just renamed it
            if path.is_dir():
                entries.append(CacheEntry(path, _bytes(path), path.stat().st_mtime, _about(path)))
            elif path.suffix != ".lock":
                entries.append(_copied(path))
    digests = _digest_files()
    if digests:
        used = max(file.stat().st_mtime for file in digests)
        about = f"digests of {len(digests):,} data sets, by which they are recognized"
        entries.append(CacheEntry(digests[0].parent, _bytes(digests[0].parent), used, about))
    return sorted(entries, key=lambda entry: entry.used)


def delete_cache(entry: CacheEntry) -> None:
    """Delete an entry, which will be made anew when it is needed.

    Raises:
        TimeoutError: If a running process uses it.
        OSError: If it cannot be deleted, or nobody can know whether it is used.
    """
    if entry.name == _DIGESTS:
        for file in _digest_files():
            file.unlink(missing_ok=True)
        return
    path = entry.path
    opened = path / INDEX if path.is_dir() else path
    made = path.with_suffix("" if path.is_dir() else ".zip")
    # nobody makes it, and nobody has it open; the file of the lock stays for those that wait
    with locked(made, wait=False), unused(opened) if opened.is_file() else contextlib.nullcontext():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _copied(file: Path) -> CacheEntry:
    stat = file.stat()  # its time of writing is set to that of the archive
    about = "not finished" if file.suffix == PARTIAL else "copy of a compressed archive"
    return CacheEntry(file, stat.st_size, max(stat.st_atime, stat.st_ctime), about)


def _digest_files() -> list[Path]:
    return [path for path in (cache_folder() / _DIGESTS).glob("*") if path.suffix != ".lock"]


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in os.scandir(folder) if file.is_file())


def _about(folder: Path) -> str:
    if folder.suffix == PARTIAL:
        return "not finished"
    try:
        about = json.loads((folder / ABOUT).read_text())
    except FileNotFoundError:
        about = {"format": 1}  # the only format without a note
    except (OSError, ValueError):
        about = {}
    words = []
    if about.get("format") != FORMAT:
        words.append("of an older format, which is not read any more")
    if about.get("dataset"):
        words.append(str(about["dataset"]))
    if "images" in about:
        words.append(f"{about['images']:,} images")
        words.append(f"{about['in_chans']} channels, {about['short_side']} px")
    return ", ".join(words) or "decoded images of an unknown data set"

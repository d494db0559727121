"""What lies in the caches under HF_HOME, and its deletion."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.constants import HF_HOME

from effssl.atomic import PARTIAL
from effssl.data._cache import ABOUT, FORMAT
from effssl.data._cached_images import INDEX
from effssl.data._locks import locked, unused
from effssl.foreign import read_json
from effssl.shown import plain, shown

_DIGESTS, _DECODED, _ARCHIVES = "digests", "decoded", "archives"
BASELINES = "baselines.json"
"""Name of the file with results of raw pixels and random weights."""
# names that these caches have; others may have put other things there, or links
_FOLDER = re.compile(r"[0-9a-f]{24}(\.partial)?")
_COPY = re.compile(r"\.?([0-9a-f]{24})\.(zip|partial|zip\.[0-9a-f]{8}\.partial)")
_DIGEST = re.compile(r"[0-9a-f]{24}")
_FILE = re.compile(r"\.?(pixels\.bin|index\.safetensors|about\.json)(\.[0-9a-f]{8}\.partial)?")


@dataclass(frozen=True)
class CacheEntry:
    """Decoded images of a data set, a copy of an archive, digests, or results of baselines.

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
    """List what is cached, the longest unused first; what others put there is not listed."""
    folder, entries = cache_folder(), []
    for path in [*(folder / _DECODED).glob("*"), *(folder / _ARCHIVES).glob("*")]:
        with contextlib.suppress(FileNotFoundError):  # another process has just renamed it
            if path.is_symlink():
                continue
            if path.parent.name == _DECODED and path.is_dir() and _FOLDER.fullmatch(path.name):
                entries.append(CacheEntry(path, _bytes(path), path.stat().st_mtime, _about(path)))
            elif path.parent.name == _ARCHIVES and path.is_file() and _COPY.fullmatch(path.name):
                entries.append(_copied(path))
    baselines = folder / BASELINES
    if baselines.is_file() and not baselines.is_symlink():
        stat, about = baselines.stat(), "results of raw pixels and random weights"
        entries.append(CacheEntry(baselines, stat.st_size, stat.st_mtime, about))
    digests = _digest_files()
    if digests:
        used = max(file.lstat().st_mtime for file in digests)
        about = f"digests of {len(digests):,} data sets, by which they are recognized"
        entries.append(CacheEntry(digests[0].parent, _bytes(digests[0].parent), used, about))
    return sorted(entries, key=lambda entry: entry.used)


def delete_cache(entry: CacheEntry) -> None:
    """Delete an entry, which will be made anew when it is needed.

    No link is followed, and a folder that holds anything that no cache has stays as it is.

    Raises:
        TimeoutError: If a running process uses it.
        OSError: If it cannot be deleted, is not a cache, or nobody can know whether it is used.
    """
    path = entry.path
    place = path if entry.name == _DIGESTS else path.parent
    if place.is_symlink() or path.is_symlink():
        raise OSError(f"{place} is a link, which is not followed: delete what it leads to yourself")
    if entry.name == _DIGESTS:
        for file in _digest_files():
            file.unlink(missing_ok=True)
        return
    if path == cache_folder() / BASELINES:
        path.unlink(missing_ok=True)
        return
    opened = path / INDEX if path.is_dir() else path
    copied = _COPY.fullmatch(path.name)
    made = path.with_name(f"{copied[1]}.zip") if copied else path.with_suffix("")
    # nobody makes it, and nobody has it open; the file of the lock stays for those that wait
    with locked(made, wait=False), unused(opened) if opened.is_file() else contextlib.nullcontext():
        _delete_folder(path) if path.is_dir() else path.unlink()


def _delete_folder(folder: Path) -> None:
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if not _FILE.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
            raise OSError(f"{folder} holds {shown(entry.name)}, which no cache has")
    for entry in found:
        os.unlink(entry.path)
    folder.rmdir()


def _copied(file: Path) -> CacheEntry:
    stat = file.stat()  # its time of writing is set to that of the archive
    about = "not finished" if file.suffix == PARTIAL else "copy of a compressed archive"
    return CacheEntry(file, stat.st_size, max(stat.st_atime, stat.st_ctime), about)


def _digest_files() -> list[Path]:
    return [path for path in (cache_folder() / _DIGESTS).glob("*") if _DIGEST.fullmatch(path.name)]


def _bytes(folder: Path) -> int:
    with os.scandir(folder) as entries:
        regular = [entry for entry in entries if entry.is_file(follow_symlinks=False)]
        return sum(entry.stat(follow_symlinks=False).st_size for entry in regular)


def _about(folder: Path) -> str:
    if folder.suffix == PARTIAL:
        return "not finished"
    try:
        about = read_json(folder / ABOUT, 100_000)
    except FileNotFoundError:
        about = {"format": 1}  # the only format without a note
    except (OSError, ValueError):
        about = {}
    words = []
    if about.get("format") != FORMAT:
        words.append("of an older format, which is not read any more")
    if about.get("dataset"):
        words.append(plain(str(about["dataset"]), 200))
    numbers = [about.get(name) for name in ("images", "in_chans", "short_side")]
    if all(type(number) is int for number in numbers):
        words.append("{:,} images, {} channels, {} px".format(*numbers))
    return ", ".join(words) or "decoded images of an unknown data set"

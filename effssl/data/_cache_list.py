"""What lies in the caches under HF_HOME, and its deletion."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.constants import HF_HOME

from effssl.data._cache import ABOUT, FORMAT
from effssl.data._cached_images import INDEX
from effssl.data._locks import locked, unused

_DIGESTS = "digests"


@dataclass(frozen=True)
class CacheEntry:
    """The decoded images of a data set, or the digests of all.

    Attributes:
        path: Folder.
        bytes: Size of its files.
        used: Time of the last use, in seconds since 1970.
        about: What it is, in words.
    """

    path: Path
    bytes: int
    used: float
    about: str

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name


def cache_folder() -> Path:
    """Return the folder of all caches."""
    return Path(HF_HOME) / "effssl"


def list_caches() -> list[CacheEntry]:
    """List what is cached, the longest unused first."""
    decoded = cache_folder() / "decoded"
    folders = [path for path in decoded.glob("*") if path.is_dir()]
    entries = [
        CacheEntry(path, _bytes(path), path.stat().st_mtime, _about(path)) for path in folders
    ]
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
    index = entry.path / INDEX
    # nobody decodes it, and nobody has it open; the file of the lock stays for those that wait
    with locked(entry.path.with_suffix(""), wait=False):
        with unused(index) if index.is_file() else nullcontext():
            shutil.rmtree(entry.path)


def _digest_files() -> list[Path]:
    return [path for path in (cache_folder() / _DIGESTS).glob("*") if path.suffix != ".lock"]


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in os.scandir(folder) if file.is_file())


def _about(folder: Path) -> str:
    if folder.suffix == ".partial":
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

"""FolderListing of the images below a folder, and of all that lies there and is left."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from effssl.data._paths import printable
from effssl.data._suffixes import image_suffixes
from effssl.progress import Stage

# what systems leave in folders; names that begin with a dot are hidden everywhere
_SYSTEM = {
    "thumbs.db",
    "desktop.ini",
    "__macosx",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "@eadir",
}


@dataclass
class FolderListing:
    """Files below a folder.

    Attributes:
        images: Paths of the images relative to the folder, with ``/``, in order.
        others: Number of files that are no images, by suffix.
        other_files: Paths of those among them that may say something about images.
        left: Images and folders that are left, and why, in words.
    """

    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    other_files: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def add(self, path: str, name: str, kept_suffixes: frozenset[str]) -> None:
        """Add a file by its name.

        Args:
            path: Its path, relative to the folder.
            name: Last part of the path.
            kept_suffixes: Suffixes that `other_files` takes.
        """
        suffix = suffix_of(name)
        if suffix in image_suffixes():
            self.images.append(path)
            return
        self.others[suffix] += 1
        if suffix in kept_suffixes:
            self.other_files.append(path)

    def leave(self, path: str, why: str) -> None:
        """Name an image or folder that is not read."""
        self.left.append(f"{printable(path)}: {why}")


def list_folder(folder: str, kept_suffixes: frozenset[str] = frozenset()) -> FolderListing:
    """List the files below a folder; links are followed, and one that leads back is not.

    Args:
        folder: Path of the folder.
        kept_suffixes: Suffixes that `FolderListing.other_files` takes.

    Raises:
        OSError: If the folder itself cannot be read.
    """
    listing = FolderListing()
    with Stage("look for images", unit="file") as stage:
        _walk(folder, listing, kept_suffixes, stage)
    return listing


def list_names(names: Iterable[str], kept_suffixes: frozenset[str] = frozenset()) -> FolderListing:
    """List files by their names, as those in an archive."""
    listing = FolderListing()
    for path in sorted(names, key=lambda path: path.split("/")):
        parts = path.split("/")
        if not any(is_hidden(part) for part in parts):
            listing.add(path, parts[-1], kept_suffixes)
    return listing


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in lower case, such as ``.png``, or an empty one."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or left by a system."""
    return name.startswith(".") or name.lower() in _SYSTEM


def _walk(folder: str, listing: FolderListing, kept_suffixes: frozenset[str], stage: Stage) -> None:
    images = image_suffixes()
    # a stack, since folders may be nested more deeply than Python calls
    open_folders = [_open(folder, "", (), listing)]
    while open_folders:
        entries, prefix, above = open_folders[-1]
        entry = next(entries, None)
        if entry is None:
            open_folders.pop()
            continue
        stage.update()
        name = entry.name
        if is_hidden(name):
            continue
        path, kind = prefix + name, _kind(entry, above)
        if kind == "file":
            listing.add(path, name, kept_suffixes)
        elif kind == "folder":
            open_folders.append(_open(entry.path, path + "/", above, listing))
        elif kind.startswith("a link") or suffix_of(name) in images:
            listing.leave(path, kind)
        else:
            listing.others[suffix_of(name)] += 1


_Identity = tuple[int, int]  # device and inode


def _open(
    folder: str, prefix: str, above: tuple[_Identity, ...], listing: FolderListing
) -> tuple[Iterator[os.DirEntry], str, tuple[_Identity, ...]]:
    """Return the entries of a folder in order, its prefix, and the folders from the root to it."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        status = os.stat(folder)
    except OSError as error:
        if not prefix:
            raise
        listing.leave(prefix, f"the folder cannot be read: {error.strerror}")
        return iter(()), prefix, above
    return iter(found), prefix, (*above, (status.st_dev, status.st_ino))


def _kind(entry: os.DirEntry, above: tuple[_Identity, ...]) -> str:
    """Return ``file``, ``folder``, or why an entry is neither."""
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            if entry.is_symlink():
                status = entry.stat()
                if (status.st_dev, status.st_ino) in above:
                    return "a link to a folder above it"
            return "folder"
        if entry.is_symlink():
            return "a link to nothing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "no regular file"

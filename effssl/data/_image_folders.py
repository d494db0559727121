"""Folders, patterns and archives of images as splits of rows, and a line that says what is read."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effssl.data._archives import as_zip, stem_of, without_common_folder
from effssl.data._folders import FolderListing, list_names, suffix_of
from effssl.data._layout import Split, arrange
from effssl.data._metadata import read_metadata
from effssl.data._paths import file_cell, member_cell, printable
from effssl.data._rows import LABEL, rows_of_cells
from effssl.data._suffixes import lacking_extra

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

logger = logging.getLogger(__name__)

_MOST_NAMED = 8  # suffixes that the line names


@dataclass
class ImageFolder:
    """Images of a folder by split.

    Attributes:
        name: What was read, for the log.
        rows: Rows of each split.
        listing: Files that were found.
        classes: Number of classes of all splits.
    """

    name: str
    rows: dict[str, Dataset]
    listing: FolderListing
    classes: int

    def log(self, split: str) -> None:
        """Log what was read for a split expression and what was left, and name what was lost."""
        images = sum(len(rows) for rows in self.rows.values())
        classes = f"{self.classes:,} classes" if self.classes else "no classes"
        parts = [f"{images:,} images", classes]
        if self.rows.keys() != {"train"}:
            parts.append("splits " + ", ".join(f"{n} {len(r):,}" for n, r in self.rows.items()))
        if split != "train" or len(self.rows) > 1:
            parts.append(f"reading {split}")
        if self.listing.others:
            parts.append(f"left {_left(self.listing.others)}")
        logger.info("%s: %s", self.name, "; ".join(parts))
        for message in self.listing.left:
            logger.warning("%s: left %s", self.name, message)


def read_listing(
    name: str, root: str, listing: FolderListing, cell: Callable[[str], str] | None = None
) -> ImageFolder:
    """Make rows of the images of a listing.

    Args:
        name: What was listed, for the log.
        root: Absolute path of its folder.
        listing: Files in it.
        cell: Function from the path of an image in the listing to its cell.

    Raises:
        ValueError: If a metadata file cannot be read.
    """
    if cell is None:

        def cell(path: str) -> str:
            return file_cell(os.path.join(root, path))

    splits = arrange(listing.images)
    columns, used = read_metadata(Path(root), listing.other_files, listing.images)
    listing.others -= Counter(suffix_of(file) for file in used)
    of_splits = [s.classes for s in splits.values() if s.classes is not None]
    names = sorted(set().union(*of_splits)) if LABEL not in columns else []
    count = len(columns[LABEL].unique().drop_null()) if LABEL in columns else len(names)
    rows = {
        split: _rows(found, listing.images, cell, names, columns) for split, found in splits.items()
    }
    return ImageFolder(name, rows, listing, count)


def read_archives(name: str, root: str, archives: Sequence[str], others: Counter) -> ImageFolder:
    """Make rows of the images in archives.

    One archive is read as if it were the folder, several as folders with the names of the archives.

    Args:
        name: What was listed, for the log.
        root: Absolute path of the folder with the archives.
        archives: Their paths relative to it.
        others: Number of other files there, by suffix.
    """
    places: dict[str, tuple[str, str]] = {}  # archive and member of every name
    for archive in archives:
        zipped, members = as_zip(os.path.join(root, archive))
        stem = stem_of(archive)
        taken, inner = without_common_folder(members, stem.rpartition("/")[2])
        prefix = f"{stem}/" if len(archives) > 1 else ""
        places |= {f"{prefix}{path}": (zipped, f"{taken}{path}") for path in inner}
    listing = list_names(places)
    listing.others += others
    return read_listing(name, root, listing, lambda path: member_cell(*places[path]))


def _rows(
    split: Split,
    images: Sequence[str],
    cell: Callable[[str], str],
    names: Sequence[str],
    columns: dict[str, pyarrow.ChunkedArray],
) -> Dataset:
    whole = len(split.images) == len(images)
    taken = (
        columns if whole else {key: col.take(list(split.images)) for key, col in columns.items()}
    )
    return rows_of_cells(
        [cell(images[place]) for place in split.images],
        split.classes if names else None,
        names=names,
        columns=taken,
    )


def _left(others: Counter[str]) -> str:
    """Return what else lies in a folder in words: ``3 .txt, 1 .heic (pip install ...)``."""
    words = []
    for suffix, count in others.most_common(_MOST_NAMED):
        extra = lacking_extra(suffix)
        named = printable(suffix) or "without suffix"
        words.append(f"{count:,} {named}" + (f" ({extra})" if extra else ""))
    rest = sum(others.values()) - sum(count for _, count in others.most_common(_MOST_NAMED))
    return ", ".join(words) + (f", {rest:,} more" if rest else "")

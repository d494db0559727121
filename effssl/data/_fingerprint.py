"""What a run remembers of its images, to recognize them under another name."""

from __future__ import annotations

from dataclasses import dataclass

import xxhash

from effssl.data._digest import digest_listed
from effssl.data._hashing import add
from effssl.data._listing import list_images
from effssl.data.sources import Source

_SAMPLED = 16  # images whose content counts where that of all is not known


@dataclass(frozen=True)
class Fingerprint:
    """The images of a run, wherever they lie and whenever they were written.

    Attributes:
        images: Number of images.
        names: Digest of their names, sizes and order, with the content of a few where a data set
            holds it itself; None for a stream.
        content: Digest of the content of all, where a data set holds it and it was read.
    """

    images: int
    names: str | None = None
    content: str | None = None

    def differs(self, other: Fingerprint) -> str | None:
        """Return how other images differ from these, in words, or None if they are the same."""
        if self.images != other.images:
            return f"there were {self.images:,} images and are {other.images:,}"
        if None not in (self.content, other.content):
            return None if self.content == other.content else "the content of images differs"
        if None in (self.names, other.names) or self.names == other.names:
            return None
        return f"of {self.images:,} images each, names, sizes or their order differ"


class Inventory:
    """One look at the images of a source, of which its cache and its run are told.

    Args:
        source: Images.
        num_images: Their number, which a stream itself does not always know.
    """

    def __init__(self, source: Source, num_images: int) -> None:
        self.source, self.num_images = source, num_images
        self._listing = None
        if not source.streaming:
            self._listing = list_images(source.dataset, source.image_column)

    @property
    def digest(self) -> str | None:
        """Digest of the images, as `Source.digest` returns it if nothing may be read."""
        if self._listing is None:
            return None
        rows, column = self.source.dataset, self.source.image_column
        return digest_listed(rows, column, self._listing, read=False)

    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint, with the content if it has been read for a cache by now."""
        if self._listing is None:
            return Fingerprint(self.num_images)
        if self._listing.by_name:
            return Fingerprint(self.num_images, self._listing.names)
        names = xxhash.xxh3_128()
        add(names, self._listing.names)
        for row in range(0, self.num_images, 1 + self.num_images // _SAMPLED):
            cell = self.source.dataset[row][self.source.image_column]
            add(names, cell["bytes"] if isinstance(cell, dict) else cell)
        return Fingerprint(self.num_images, names.hexdigest(), self.digest)

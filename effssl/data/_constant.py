"""Images that are one constant color, of which nothing can be learned."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from effssl.data._loader import Batch

logger = logging.getLogger(__name__)

NAMED = 3
"""Most images that a message names."""
_LOOKED_AT = 10_000  # images without a cache, whose count is told soon
_MOST = 0.01  # share of the images without a warning


def is_constant(pixels: np.ndarray) -> bool:
    """Return whether all pixels of an image, (C, H, W), are equal."""
    first = pixels[:, :1, :1]
    # a few first: most images differ there
    return bool((pixels[:, ::8, ::8] == first).all()) and bool((pixels == first).all())


class CountedBatches:
    """Batches of images that are decoded in every epoch; those of one color are counted once.

    Args:
        loader: Batches of an epoch, in `Batch`.
        batches: Number of batches of an epoch.

    Attributes:
        dataset: Images that the loader reads; None of a stream.
    """

    def __init__(self, loader: Iterable[Batch], batches: int) -> None:
        self.loader, self.dataset = loader, getattr(loader, "dataset", None)
        self._left, self._images = batches, 0
        self._count, self._names = 0, []

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            if self._left:
                self._look(batch)
            yield batch

    def _look(self, batch: Batch) -> None:
        self._images += len(batch.rows)
        self._count += len(batch.constant)
        self._names += batch.constant[: NAMED - len(self._names)]
        self._left -= 1
        if not self._left or self._images >= _LOOKED_AT:
            self._left = 0
            say_constant(self._count, self._images, self._names)


def say_constant(count: int, images: int, names: Sequence[str]) -> None:
    """Log how many images are one constant color, as a warning if they are more than 1 %.

    Args:
        count: Number of such images.
        images: Number of all images that were looked at.
        names: Names of some of them.
    """
    if not count:
        return
    named = ", ".join(names[:NAMED]) + (", ..." if count > len(names[:NAMED]) else "")
    share = count / images
    if share > _MOST:
        logger.warning(
            "%s of %s images (%.1f %%) are one constant color, from which nothing can be learned: "
            "%s; where transparency hides what they show, try another --background",
            f"{count:,}",
            f"{images:,}",
            100 * share,
            named,
        )
    else:
        logger.info(
            "%s of %s images %s one constant color: %s",
            f"{count:,}",
            f"{images:,}",
            "is" if count == 1 else "are",
            named,
        )

"""Images that are one constant color, of which nothing can be learned."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

logger = logging.getLogger(__name__)

NAMED = 3
"""Most images that a message names."""
_MOST = 0.01  # share of the images without a warning


def is_constant(pixels: np.ndarray) -> bool:
    """Return whether all pixels of an image, (C, H, W), are equal."""
    first = pixels[:, :1, :1]
    # a few first: most images differ there
    return bool((pixels[:, ::8, ::8] == first).all()) and bool((pixels == first).all())


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

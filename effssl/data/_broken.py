"""Broken images are named, counted and left out; too many of them end the work."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from itertools import islice

from effssl.distributed import gather_objects
from effssl.hints import option

logger = logging.getLogger(__name__)

MAX_BROKEN = 0.01  # default of the largest share; the commands name the same


def allowed_broken(num_images: int, max_broken: float) -> int:
    """Return how many images may be broken: the share of all, rounded up.

    Rounding up lets a single broken image through in any data set, unless the share is 0.

    Raises:
        ValueError: If the share is not from 0 to 1.
    """
    if not 0 <= max_broken <= 1:
        raise ValueError(
            f"{option('max_broken')} is a share of the images, 0 to 1; got {max_broken}"
        )
    return math.ceil(Fraction(str(max_broken)) * num_images)  # 0.07 * 100 is above 7


def check_broken(broken: Collection[str], num_images: int, max_broken: float = MAX_BROKEN) -> None:
    """Refuse a data set with too many broken images.

    Args:
        broken: Why each broken image cannot be read.
        num_images: Number of images in the data set.
        max_broken: Largest share of them that may be broken, see `allowed_broken`.

    Raises:
        ValueError: If more are broken, or all of them; it names the first ten.
    """
    allowed = allowed_broken(num_images, max_broken)
    if not broken or (len(broken) <= allowed and len(broken) < num_images):
        return
    named = "; ".join(islice(broken, 10))
    more = f"; and {len(broken) - 10:,} more" if len(broken) > 10 else ""
    if len(broken) == num_images:
        raise ValueError(f"none of the {num_images:,} images can be read: {named}{more}")
    raise ValueError(
        f"{len(broken):,} of the {num_images:,} images cannot be read so far, which is more than "
        f"the {allowed:,} that {option('max_broken')} {max_broken:g} allows: mend or remove "
        f"them, or allow more: {named}{more}"
    )


class BrokenImages:
    """Broken images met so far by all processes.

    Args:
        num_images: Number of images in the data set.
        known: Messages of a resumed run.
        max_broken: Largest share of the images that may be broken.

    Raises:
        ValueError: If the share is not from 0 to 1.
    """

    def __init__(
        self, num_images: int, known: Iterable[str] = (), *, max_broken: float = MAX_BROKEN
    ) -> None:
        allowed_broken(num_images, max_broken)
        self.num_images, self.max_broken = num_images, max_broken
        self._known = dict.fromkeys(known)  # a set that keeps the order
        self._new: list[str] = []

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def add(self, messages: Iterable[str]) -> None:
        """Add messages of `BrokenImage` that this process has met."""
        self._new += [message for message in messages if message not in self._known]

    def share(self) -> None:
        """Exchange new messages and log them; every process must call this at the same step.

        Raises:
            ValueError: If too many images are broken (`check_broken`), on every process.
        """
        gathered = gather_objects(self._new)
        self._new = []
        for message in (message for messages in gathered for message in messages):
            if message not in self._known:
                self._known[message] = None
                logger.warning("skipped a broken image: %s", message)
        check_broken(self._known, self.num_images, self.max_broken)

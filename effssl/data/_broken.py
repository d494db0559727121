"""Broken images are named, counted and skipped; too many of them end the run."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from effssl.distributed import gather_objects

logger = logging.getLogger(__name__)

LIMIT = 0.01  # largest share of broken images


def check_broken(broken: Collection[str], num_images: int) -> None:
    """Refuse a data set with too many broken images.

    Args:
        broken: Why each broken image cannot be read.
        num_images: Number of images in the data set.

    Raises:
        ValueError: If more than 1 % of the images are broken; it names the first ten.
    """
    if len(broken) > LIMIT * num_images:
        named = "; ".join(islice(broken, 10))
        more = f"; and {len(broken) - 10:,} more" if len(broken) > 10 else ""
        raise ValueError(
            f"{len(broken):,} of the {num_images:,} images cannot be read so far, which is more "
            f"than {LIMIT:.0%}: mend or remove them: {named}{more}"
        )


class BrokenImages:
    """Broken images met so far by all processes of a run.

    Args:
        num_images: Number of images in the data set.
        known: Messages of a resumed run.
    """

    def __init__(self, num_images: int, known: Iterable[str] = ()) -> None:
        self.num_images = num_images
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
            ValueError: If more than 1 % of the images are broken, on every process.
        """
        gathered = gather_objects(self._new)
        self._new = []
        for message in (message for messages in gathered for message in messages):
            if message not in self._known:
                self._known[message] = None
                logger.warning("skipped a broken image: %s", message)
        check_broken(self._known, self.num_images)

"""Images that cannot be read: named, counted, skipped; too many of them end the run."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from effssl.distributed import gather_objects

logger = logging.getLogger(__name__)

LIMIT = 0.01  # share of the images


def check_broken(broken: Collection[str], images: int) -> None:
    """Refuse a data set of which too much cannot be read.

    Args:
        broken: What was wrong with each broken image.
        images: Images of the data set.

    Raises:
        ValueError: If more than 1 % of the images are broken; it names the first ten.
    """
    if len(broken) > LIMIT * images:
        named = "; ".join(islice(broken, 10))
        more = f"; and {len(broken) - 10:,} more" if len(broken) > 10 else ""
        raise ValueError(
            f"{len(broken):,} of the {images:,} images cannot be read so far, which is more than "
            f"{LIMIT:.0%}: mend or remove them: {named}{more}"
        )


class BrokenImages:
    """The broken images that the processes of a run have met.

    Args:
        images: Images of the data set.
        known: What a run that is resumed has met before.
    """

    def __init__(self, images: int, known: Iterable[str] = ()) -> None:
        self.images = images
        self._known = dict.fromkeys(known)  # a set that keeps the order
        self._new: list[str] = []

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def add(self, messages: Iterable[str]) -> None:
        """Note what this process has met, as messages of `BrokenImage`."""
        self._new += [message for message in messages if message not in self._known]

    def share(self) -> None:
        """Tell the other processes and the log; every process must call it at the same step.

        Raises:
            ValueError: If more than 1 % of the images are broken, on every process.
        """
        gathered = gather_objects(self._new)
        self._new = []
        for message in (message for messages in gathered for message in messages):
            if message not in self._known:
                self._known[message] = None
                logger.warning("skipped a broken image: %s", message)
        check_broken(self._known, self.images)

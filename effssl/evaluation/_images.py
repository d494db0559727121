"""Images to measure on, their classes, and what is left out of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from effssl.data._broken import BrokenImages
from effssl.data.sources import Source
from effssl.evaluation.accuracy import dense_labels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """Images to measure on. Those without a class, and those that cannot be read, are left out.

    Attributes:
        train: Images that vote and are fitted to, or None.
        test: Test images.
        train_labels: Classes from 0 of all images of train, (N,), -1 for none; empty without train.
        test_labels: Likewise, (M,); empty without train.
        classes: Original label of every class.
        train_broken: Broken images of train met so far; None without train.
        test_broken: Broken images of test met so far.
    """

    train: Source | None
    test: Source
    train_labels: Tensor
    test_labels: Tensor
    classes: list[int]
    train_broken: BrokenImages | None
    test_broken: BrokenImages

    @classmethod
    def labeled(cls, train: Source, test: Source, max_broken: float) -> Images:
        """Read the classes, and say how many images have none.

        Args:
            train: Labeled images.
            test: Labeled images to measure on.
            max_broken: Largest share of broken images of each.

        Raises:
            ValueError: If train and test do not fit together (`dense_labels`), or the share is not
                from 0 to 1.
        """
        labels, test_labels, classes = dense_labels(train, test)
        for name, of_split in {"train": labels, "test": test_labels}.items():
            if missing := int((of_split < 0).sum()):
                logger.warning(
                    "left out %d of %d images of %s, which have no label",
                    missing,
                    len(of_split),
                    name,
                )
        broken = [BrokenImages(len(s.dataset), max_broken=max_broken) for s in (train, test)]
        return cls(train, test, labels, test_labels, classes, *broken)

    @classmethod
    def unlabeled(cls, test: Source, max_broken: float) -> Images:
        """Take images without their classes; the arguments are those of `labeled`."""
        none = torch.empty(0, dtype=torch.long)
        broken = BrokenImages(len(test.dataset), max_broken=max_broken)
        return cls(None, test, none, none, [], None, broken)

    @property
    def train_rows(self) -> list[int]:
        """Rows of the labeled images of train."""
        return _labeled(self.train_labels)

    @property
    def test_rows(self) -> list[int]:
        """Rows of the labeled images of test."""
        return _labeled(self.test_labels)

    def left_out(self) -> dict[str, dict[str, int]]:
        """Return the numbers of unlabeled and broken images of train and test, where not 0."""
        found = {
            "train": {
                "unlabeled": int((self.train_labels < 0).sum()),
                "broken": len(self.train_broken or ()),
            },
            "test": {
                "unlabeled": int((self.test_labels < 0).sum()),
                "broken": len(self.test_broken),
            },
        }
        counts = {name: {k: n for k, n in row.items() if n} for name, row in found.items()}
        return {name: row for name, row in counts.items() if row}


def _labeled(labels: Tensor) -> list[int]:
    return (labels >= 0).nonzero()[:, 0].tolist()

"""Accuracy of classifiers, and checks that train and test fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from effssl.data.sources import Source
from effssl.hints import option
from effssl.intervals import quantile


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on labeled images.

    Attributes:
        top1: Percentage of images whose class is the first guess.
        top5: Percentage of images whose class is among the first five guesses; None with five
            classes or fewer, or fewer than five guesses.
        confusion: Number of images by class (row) and predicted class (column), (classes,
            classes), int64; None if it was measured before and not kept.
        correct: Whether the first guess is right, by image in order, (M,), on the CPU; None if it
            is not known. Differences of two encoders are paired by it.
        episodes: Top-1 in percent by episode, (E,), where labels are drawn several times. Then top1
            is their mean, confusion their sum, and correct the share of the episodes in which an
            image is right.
    """

    top1: float
    top5: float | None
    confusion: Tensor | None = field(default=None, compare=False, repr=False)
    correct: Tensor | None = field(default=None, compare=False, repr=False)
    episodes: Tensor | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, guesses: Tensor, labels: Tensor, classes: int) -> Accuracy:
        """Compare guesses with labels.

        Args:
            guesses: Classes, best first, (M, 1) or (M, 5); -1 for no guess.
            labels: (M,).
            classes: Number of classes.
        """
        right = guesses == labels.unsqueeze(1)
        cells = labels * classes + guesses[:, 0]
        # one wait for the device
        pairs, first, any_of_five = torch.stack([cells, right[:, 0], right.any(1)]).cpu()
        top1, top5 = (100 * int(hits.sum()) / len(labels) for hits in (first, any_of_five))
        confusion = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
        top5 = top5 if guesses.shape[1] == 5 and classes > 5 else None
        return cls(top1, top5, confusion, first.bool())

    @classmethod
    def of_episodes(
        cls, by_episode: Tensor, by_image: Tensor, confusion: Tensor | None = None
    ) -> Accuracy:
        """Make the accuracy over episodes of the number of right guesses.

        Args:
            by_episode: Right images of each episode, (E,).
            by_image: Episodes in which each image is right, (M,).
            confusion: As in `Accuracy`.
        """
        tops = 100 * by_episode.double() / len(by_image)
        shares = by_image.double() / len(by_episode)
        return cls(float(tops.mean()), None, confusion, shares, tops)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Ends of an interval of 95 % of the mean over episodes, in percent; None without them."""
        if self.episodes is None:
            return None
        count = len(self.episodes)
        half = quantile(count - 1) * float(self.episodes.std()) / count**0.5
        return self.top1 - half, self.top1 + half

    def of_classes(self, classes: int) -> Accuracy:
        """Return the same with so many classes, of which the last ones have no image."""
        if self.confusion is None:
            return self
        more = classes - len(self.confusion)
        return replace(self, confusion=F.pad(self.confusion, (0, more, 0, more)))

    @property
    def per_class(self) -> Tensor | None:
        """Top-1 in percent of every class, (classes,); NaN for a class without images.

        None without `confusion`.
        """
        if self.confusion is None:
            return None
        return 100 * self.confusion.diag() / self.confusion.sum(1)


def majority_top1(train_labels: Tensor, test_labels: Tensor) -> float:
    """Return top-1 in percent on test of always guessing the most frequent class of train.

    Args:
        train_labels: Classes from 0, (N,).
        test_labels: Likewise, (M,).
    """
    common = train_labels.bincount().argmax()
    return 100 * int((test_labels == common).sum()) / len(test_labels)


def topk_classes(scores: Tensor) -> Tensor:
    """Return the five classes with the highest scores, best first, or one of five classes or fewer.

    Args:
        scores: (M, classes).

    Returns:
        (M, 5) or (M, 1).
    """
    return scores.topk(5 if scores.shape[1] > 5 else 1).indices


def check_labeled(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> int:
    """Check that a classifier can be fitted to train and measured on test.

    Args:
        train_features: (N, F).
        train_labels: Classes from 0, (N,).
        test_features: (M, F).
        test_labels: (M,).

    Returns:
        Number of classes.

    Raises:
        ValueError: If features and labels differ in number or train and test in width, a feature is
            not finite, a label is below 0, train has one class only, or test has a class that train
            lacks.
    """
    for name, features, labels in (
        ("train", train_features, train_labels),
        ("test", test_features, test_labels),
    ):
        if len(features) != len(labels) or not len(labels):
            raise ValueError(f"{name} has {len(features)} features and {len(labels)} labels")
        if not features.isfinite().all():
            broken = int((~features.isfinite().all(1)).sum())
            raise ValueError(
                f"the features of {broken} of {len(features)} images of {name} are not finite: the "
                "model is broken, or images are, whose rows of NaN are to be left out"
            )
        if (labels < 0).any():
            raise ValueError(
                f"{int((labels < 0).sum())} of {len(labels)} images of {name} have no label, which "
                "is -1: leave them out"
            )
    if train_features.shape[1] != test_features.shape[1]:
        raise ValueError(
            f"train has features {train_features.shape[1]} wide and test {test_features.shape[1]}: "
            "they are of two models"
        )
    check_classes(train_labels, test_labels)
    return int(train_labels.max()) + 1


def dense_labels(train: Source, test: Source) -> tuple[Tensor, Tensor, list[int]]:
    """Number the classes of train and test images from 0 without gaps.

    A class of test is the class of train with the same name, where both have names, or else with
    the same number.

    Returns:
        Classes of train, (N,), and of test, (M,), -1 for an image without a label; and the label
        that every class has in train.

    Raises:
        ValueError: If a source has no labels, train has one class only, or test has a class that
            train lacks.
    """
    labels, test_labels = read_labels(train, " of train"), read_labels(test, " of test")
    names, test_names = train.class_names, test.class_names
    known = dict(enumerate(names or ()))
    if names and test_names and names != test_names:
        number = {name: i for i, name in known.items()}
        new = len(names)  # classes that train does not name come after the others
        count = max(len(test_names), int(test_labels.max()) + 1)
        known |= {new + i: name for i, name in enumerate(test_names) if name not in number}
        of_train = [number.get(name, new + i) for i, name in enumerate(test_names)]
        of_train += range(new + len(test_names), new + count)
        test_labels = torch.where(test_labels < 0, -1, torch.tensor(of_train)[test_labels])
    check_classes(labels[labels >= 0], test_labels[test_labels >= 0], known)
    values = labels[labels >= 0].unique()
    dense = [
        torch.where(some < 0, -1, torch.searchsorted(values, some))
        for some in (labels, test_labels)
    ]
    return *dense, values.tolist()


def read_labels(source: Source, of: str = "") -> Tensor:
    """Read the class of every image, (N,), -1 for none.

    Args:
        source: Images.
        of: What the images are of, for the error.

    Raises:
        ValueError: If the source has no labels (`Source.labels`), or no image has one.
    """
    labels = torch.tensor(source.labels(), dtype=torch.long)
    if not (labels >= 0).any():
        raise ValueError(
            f"label column {source.label_column!r} holds no class for any of the {len(labels)} "
            f"images{of}: name another with {option('label_column')}; pretraining and the protocol "
            "spectrum need none"
        )
    return labels


def check_classes(
    train_labels: Tensor, test_labels: Tensor, names: Mapping[int, str] | None = None
) -> None:
    """Raise ValueError if train has one class only, or test has a class that train lacks.

    Args:
        train_labels: Classes, (N,).
        test_labels: Classes, (M,).
        names: Names of classes, for the error.
    """
    # the lines below read values: one copy to the CPU waits for a GPU only once
    train_labels, test_labels = train_labels.cpu(), test_labels.cpu()
    known = train_labels.unique()
    if len(known) < 2:
        raise ValueError(
            f"all {len(train_labels)} images of train are of class {int(known[0])}: a classifier "
            "needs two classes or more"
        )
    new = test_labels[~torch.isin(test_labels, known)]
    if len(new):
        some = new.unique().tolist()[:5]
        shown = ", ".join((names or {}).get(label, str(label)) for label in some)
        raise ValueError(
            f"{len(new)} of {len(test_labels)} images of test are of classes that train has no "
            f"image of ({shown}{', ...' if len(new.unique()) > 5 else ''}): take more of train, or "
            "leave them out"
        )

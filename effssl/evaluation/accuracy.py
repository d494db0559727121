"""Accuracy of classifiers, and checks that train and test fit together."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from effssl.data.sources import Source


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on labeled images.

    Attributes:
        top1: Percentage of images whose class is the first guess.
        top5: Percentage of images whose class is among the first five guesses; None with five
            classes or fewer, or fewer than five guesses.
        confusion: Number of images by class (row) and predicted class (column), (classes,
            classes), int64.
    """

    top1: float
    top5: float | None
    confusion: Tensor = field(compare=False, repr=False)

    @classmethod
    def of(cls, guesses: Tensor, labels: Tensor, classes: int) -> Accuracy:
        """Compare guesses with labels.

        Args:
            guesses: Classes, best first, (M, 1) or (M, 5); -1 for no guess.
            labels: (M,).
            classes: Number of classes.
        """
        right = guesses == labels.unsqueeze(1)
        top1, top5 = (100 * int(right[:, :n].any(1).sum()) / len(labels) for n in (1, 5))
        pairs = labels * classes + guesses[:, 0]
        confusion = torch.bincount(pairs.cpu(), minlength=classes**2).view(classes, classes)
        return cls(top1, top5 if guesses.shape[1] == 5 and classes > 5 else None, confusion)

    @property
    def per_class(self) -> Tensor:
        """Top-1 in percent of every class, (classes,); NaN for a class without images."""
        return 100 * self.confusion.diag() / self.confusion.sum(1)


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
            not finite, train has one class only, or test has a class that train lacks.
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
                "model is broken"
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

    Returns:
        Classes of train, (N,), classes of test, (M,), and the original label of every class.

    Raises:
        ValueError: If a source has no labels, class names of train and test differ, train has one
            class only, or test has a class that train lacks.
    """
    names = [
        getattr(source.dataset.features.get(source.label_column), "names", None)
        for source in (train, test)
    ]
    labels, test_labels = torch.tensor(train.labels()), torch.tensor(test.labels())
    if None not in names and names[0] != names[1]:
        first, second = (", ".join(some[:5]) for some in names)
        raise ValueError(
            f"the classes of train begin {first} and those of test {second}: their numbers do not "
            "mean the same; load both as splits of one data set"
        )
    check_classes(labels, test_labels)
    values, labels = labels.unique(return_inverse=True)
    return labels, torch.searchsorted(values, test_labels), values.tolist()


def check_classes(train_labels: Tensor, test_labels: Tensor) -> None:
    """Raise ValueError if train has one class only, or test has a class that train lacks."""
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
        names = ", ".join(str(label) for label in new.unique().tolist()[:5])
        raise ValueError(
            f"{len(new)} of {len(test_labels)} images of test are of classes that train has no "
            f"image of ({names}{', ...' if len(new.unique()) > 5 else ''}): take more of train, or "
            "leave them out"
        )

"""Weighted k-nearest-neighbor classification of frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from effssl.evaluation.accuracy import Accuracy, check_labeled, topk_classes
from effssl.hints import option

K = (1, 5, 20, 200)
TEMPERATURE = 0.07
_QUERIES = 1024  # test images at a time


def knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: Sequence[int] = K,
    temperature: float = TEMPERATURE,
) -> dict[int, Accuracy]:
    """Classify by a vote of the k nearest training images, weighted by exp(cosine / T).

    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR
    2018, https://arxiv.org/abs/1805.01978, section 3.4. Features are scaled to unit length and not
    centered. The computation runs on the device of the features.

    Args:
        train_features: (N, F).
        train_labels: Classes from 0, (N,).
        test_features: (M, F).
        test_labels: (M,).
        k: Numbers of neighbors that vote, all measured at once.
        temperature: T.

    Returns:
        Accuracy by k.

    Raises:
        ValueError: If there are fewer than k training images, temperature is not above 0, or train
            and test do not fit together (`check_labeled`).
    """
    classes = check_labeled(train_features, train_labels, test_features, test_labels)
    check_votes(k, temperature, len(train_features))
    train, test = F.normalize(train_features), F.normalize(test_features)
    guesses = {count: [] for count in k}
    for queries in test.split(_QUERIES):
        similarity, neighbors = (queries @ train.T).topk(max(k))
        weights = torch.exp((similarity - similarity[:, :1]) / temperature)
        voted = train_labels[neighbors]
        for count, found in guesses.items():
            votes = weights.new_zeros(len(queries), classes)
            votes.scatter_add_(1, voted[:, :count], weights[:, :count])
            best = topk_classes(votes)
            best = best.where(votes.gather(1, best) > 0, -1)  # classes without a vote are no guess
            found.append(best[:, : 1 if count < 5 else None])
    return {
        count: Accuracy.of(torch.cat(found), test_labels, classes)
        for count, found in guesses.items()
    }


def check_votes(k: Sequence[int], temperature: float, images: int) -> None:
    """Raise ValueError if there are fewer than k training images, or temperature is not above 0."""
    wrong = [count for count in k if not 1 <= count <= images]
    if wrong or not k:
        shown = ", ".join(map(str, wrong)) or "none"
        raise ValueError(f"{option('k')} must be 1 to the {images} training images, got {shown}")
    if not temperature > 0:
        raise ValueError(f"{option('temperature')} must be above 0, got {temperature}")

"""Weighted k-nearest-neighbour classification of frozen features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Top-1 accuracy of a vote of the k nearest training images, weighted exp(cosine / T).

    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR
    2018, https://arxiv.org/abs/1805.01978, section 3.4. Features are scaled to unit length and not
    centred.

    Args:
        train_features: (N, F).
        train_labels: Classes from 0, (N,).
        test_features: (M, F).
        test_labels: (M,).
        k: Neighbours that vote.
        temperature: T.

    Returns:
        Percentage of test images classified rightly.

    Raises:
        ValueError: If there are fewer than k training images.
    """
    if not 1 <= k <= len(train_features):
        raise ValueError(f"k must be 1 to the {len(train_features)} training images, got {k}")
    train, test = F.normalize(train_features), F.normalize(test_features)
    classes = int(train_labels.max()) + 1
    right = 0
    for queries, labels in zip(test.split(1024), test_labels.split(1024), strict=True):
        similarity, neighbours = (queries @ train.T).topk(k)
        weights = torch.exp((similarity - similarity[:, :1]) / temperature)
        votes = torch.zeros(len(queries), classes, device=queries.device)
        votes.scatter_add_(1, train_labels[neighbours], weights)
        right += int((votes.argmax(1) == labels).sum())
    return 100 * right / len(test)

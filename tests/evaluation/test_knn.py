"""knn: scikit-learn's vote on the same cosine distances, and a case done by hand."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from effssl.evaluation import knn


def test_knn_equals_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (600,), generator=generator)
    features = torch.randn(600, 8, generator=generator) + torch.eye(5, 8)[labels]
    train, test = slice(0, 400), slice(400, None)
    for k, temperature in [(1, 0.07), (20, 0.07), (50, 0.5)]:
        reference = KNeighborsClassifier(
            k,
            metric="cosine",
            algorithm="brute",
            weights=lambda distance, t=temperature: np.exp((1 - distance) / t),
        ).fit(features[train], labels[train])
        expected = 100 * reference.score(features[test], labels[test])
        data = (features[train], labels[train], features[test], labels[test])
        assert knn(*data, k=k, temperature=temperature) == pytest.approx(expected)


def test_a_near_neighbour_outvotes_two_far_ones_when_the_temperature_is_low():
    train = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    data = (train, torch.tensor([0, 1, 1]), torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    # exp(1 / T) against 2 exp(0.6 / T): they are equal at T = 0.4 / ln 2 = 0.577
    assert knn(*data, k=3, temperature=0.57) == 100
    assert knn(*data, k=3, temperature=0.58) == 0


def test_fewer_images_than_neighbours_is_an_error():
    features, labels = torch.randn(5, 3), torch.zeros(5, dtype=torch.long)
    with pytest.raises(ValueError, match="k must be 1 to the 5 training images, got 20"):
        knn(features, labels, features, labels)

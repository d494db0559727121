"""knn: scikit-learn's vote on the same cosine distances, and a case done by hand."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from effssl.evaluation import knn


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_knn_equals_scikit_learn(temperature):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (600,), generator=generator)
    features = torch.randn(600, 8, generator=generator) + torch.eye(7, 8)[labels]
    train, test = slice(0, 400), slice(400, None)
    data = (features[train], labels[train], features[test], labels[test])
    for k, found in knn(*data, k=(1, 5, 20, 200), temperature=temperature).items():
        reference = KNeighborsClassifier(
            k,
            metric="cosine",
            algorithm="brute",
            weights=lambda distance: np.exp((1 - distance) / temperature),
        ).fit(features[train], labels[train])
        expected = reference.predict(features[test])
        right = torch.from_numpy(expected) == labels[test]
        assert found.top1 == pytest.approx(100 * right.double().mean().item())
        for true, given in zip(labels[test].tolist(), expected.tolist(), strict=True):
            found.confusion[true, given] -= 1
        assert not found.confusion.any()
        votes = reference.predict_proba(features[test])
        best = torch.from_numpy(np.argsort(-votes, 1)[:, :5])
        voted = torch.from_numpy(np.take_along_axis(votes, best.numpy(), 1)) > 0
        hit = ((best == labels[test].unsqueeze(1)) & voted).any(1).double().mean().item()
        assert found.top5 == (None if k == 1 else pytest.approx(100 * hit))


def test_a_near_neighbor_outvotes_two_far_ones_when_the_temperature_is_low():
    train = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    data = (train, torch.tensor([0, 1, 1]), torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    # exp(1 / T) against 2 exp(0.6 / T): they are equal at T = 0.4 / ln 2 = 0.577
    assert knn(*data, k=(3,), temperature=0.57)[3].top1 == 100
    assert knn(*data, k=(3,), temperature=0.58)[3].top1 == 0


def test_what_cannot_vote_is_named():
    features, labels = torch.randn(6, 3), torch.arange(6) % 2
    data = (features, labels, features, labels)
    with pytest.raises(ValueError, match="k must be 1 to the 6 training images, got 20, 200"):
        knn(*data, k=(5, 20, 200))
    with pytest.raises(ValueError, match="k must be 1 to the 6 training images, got none"):
        knn(*data, k=())
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        knn(*data, k=(1,), temperature=0)

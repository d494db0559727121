"""linear_probe: scikit-learn's logistic regression, and what it may look at."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from effssl.evaluation import linear_probe
from effssl.evaluation.linear import L2_GRID, _fit


def data(n=900, classes=4, width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    noise = torch.randn(n, width, generator=generator)
    return noise + 1.2 * torch.eye(classes, width)[labels], labels


def test_the_fit_is_scikit_learns():
    features, labels = data()
    for l2 in (1e-1, 1e-3):
        start = torch.zeros(4, 12), torch.zeros(4)
        weight, bias = _fit(features, labels, l2, start)
        reference = LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-8, max_iter=1000)
        reference.fit(features.double(), labels)
        expected = torch.from_numpy(reference.predict_proba(features.double())).float()
        found = torch.softmax(features @ weight.T + bias, 1)
        torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


def test_accuracy_is_scikit_learns_at_the_l2_chosen():
    features, labels = data(1500)
    train, test = slice(0, 1000), slice(1000, None)
    probe = linear_probe(features[train], labels[train], features[test], labels[test])
    mean, std = features[train].mean(0), features[train].std(0)
    scaled = (features - mean) / std
    reference = LogisticRegression(C=1 / (probe.l2 * 1000), max_iter=1000)
    reference.fit(scaled[train], labels[train])
    assert probe.top1 == pytest.approx(100 * reference.score(scaled[test], labels[test]), abs=0.3)
    assert probe.l2 in L2_GRID


def test_l2_is_chosen_without_a_look_at_test():
    features, labels = data()
    honest = linear_probe(features, labels, features, labels)
    wrong = linear_probe(features, labels, features, (labels + 1) % 4)
    assert (honest.l2, honest.held_out_top1) == (wrong.l2, wrong.held_out_top1)
    assert honest.top1 > 50 > wrong.top1


def test_scale_and_offset_of_a_feature_do_not_matter():
    features, labels = data()
    a = linear_probe(features, labels, features, labels)
    moved = 100 * features + torch.arange(12)
    b = linear_probe(moved, labels, moved, labels)
    assert abs(a.top1 - b.top1) < 0.5


def test_broken_features_and_single_classes_are_named():
    features, labels = data()
    with pytest.raises(ValueError, match="the features are not finite"):
        linear_probe(features / 0, labels, features, labels)
    with pytest.raises(ValueError, match="two or more classes"):
        linear_probe(features, 0 * labels, features, labels)

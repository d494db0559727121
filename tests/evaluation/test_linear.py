"""linear_probe: scikit-learn's logistic regression, and what it may look at."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from effssl.data import load_source
from effssl.data._decode import decode_image
from effssl.evaluation import linear, linear_probe
from effssl.evaluation.linear import L2_GRID, _fit


def data(n=900, classes=4, width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    noise = torch.randn(n, width, generator=generator)
    return noise + 1.2 * torch.eye(classes, width)[labels], labels


def objective(weight, bias, features, labels, l2):
    logits = features.double() @ torch.as_tensor(weight).double().T + torch.as_tensor(bias)
    return float(F.cross_entropy(logits, labels) + l2 / 2 * torch.as_tensor(weight).square().sum())


@pytest.mark.parametrize("l2", [1e-1, 1e-3, 1e-5])
def test_the_fit_reaches_scikit_learns_minimum(l2):
    features, labels = data()
    start = torch.zeros(4, 12), torch.zeros(4)
    found = _fit(features, labels, l2, start, features.T @ features / len(features))
    reference = LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-8, max_iter=1000)
    reference.fit(features.double(), labels)
    minimum = objective(reference.coef_, reference.intercept_, features, labels, l2)
    assert -1e-6 < objective(*found, features, labels, l2) - minimum < 1e-4


def pixels(split):
    source = load_source(split=split, in_chans=1)
    images = [decode_image(value, 1) for value in source.dataset["image"]]
    return torch.from_numpy(np.stack(images)).flatten(1) / 255, torch.tensor(source.labels())


@pytest.mark.parametrize("l2", [1e-1, 1e-2])
def test_accuracy_on_raw_pixels_is_scikit_learns_at_the_same_l2(l2):
    (train, train_labels), (test, test_labels) = pixels("train[:2000]"), pixels("test")
    probe = linear_probe(train, train_labels, test, test_labels, l2=l2)
    assert probe.l2 == l2 and probe.held_out_top1 is None
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    reference = LogisticRegression(C=1 / (l2 * len(train)), max_iter=1000)
    reference.fit((train - mean) / std, train_labels)
    expected = 100 * reference.score((test - mean) / std, test_labels)
    assert probe.accuracy.top1 == pytest.approx(expected, abs=0.3) and expected > 75
    logits = test @ probe.weight.T + probe.bias
    top1 = 100 * (logits.argmax(1) == test_labels).float().mean().item()
    assert top1 == pytest.approx(probe.accuracy.top1, abs=0.1)


def test_l2_is_chosen_without_a_look_at_test():
    features, labels = data()
    honest = linear_probe(features, labels, features, labels)
    wrong = linear_probe(features, labels, features, (labels + 1) % 4)
    assert (honest.l2, honest.held_out_top1) == (wrong.l2, wrong.held_out_top1)
    assert honest.accuracy.top1 > 50 > wrong.accuracy.top1
    assert honest.l2 in L2_GRID


def test_scale_and_offset_of_a_feature_do_not_matter():
    features, labels = data()
    a = linear_probe(features, labels, features, labels)
    moved = 100 * features + torch.arange(12)
    b = linear_probe(moved, labels, moved, labels)
    assert abs(a.accuracy.top1 - b.accuracy.top1) < 0.5


@pytest.mark.parametrize("constant", [0.1, -0.4242, 3.7, 0.0])
def test_what_is_constant_in_train_says_nothing(constant):
    features, labels = data(400)
    train, test = slice(0, 200), slice(200, None)
    alone = linear_probe(features[train], labels[train], features[test], labels[test])
    more = torch.full((400, 20), constant)
    more[300:] += 0.5  # in half of test
    wide = torch.cat([features, more], dim=1)
    probe = linear_probe(wide[train], labels[train], wide[test], labels[test])
    assert probe.accuracy == alone.accuracy and not probe.weight[:, 12:].any()


def test_two_images_can_be_fitted():
    features, labels = torch.eye(2, 5), torch.tensor([0, 1])
    assert linear_probe(features, labels, features, labels).accuracy.top1 == 100


def test_the_grid_is_left_when_it_gets_no_better(monkeypatch):
    tried = []
    monkeypatch.setattr(linear, "_fit", lambda *a: tried.append(a[2]) or _fit(*a))
    features, labels = data(300, width=200)  # more dimensions than the labels can fill
    probe = linear_probe(features, labels, features, labels)
    assert tried[:-1] == list(L2_GRID[: len(tried) - 1]) and len(tried) < 10
    assert tried[-1] == probe.l2 == tried[-4]

"""fewshot: scikit-learn's predictions on the same episodes, draws, intervals and bad input."""

import importlib

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from torch.nn import functional as F

from effssl.evaluation import fewshot
from effssl.evaluation._batched_logistic import fit_logistic
from effssl.evaluation._episodes import draw_episodes, resolve_shots

module = importlib.import_module("effssl.evaluation.fewshot")  # its function has the same name


def data(train=120, test=150, classes=4, width=12, seed=0):
    """Features and labels of train and test, of uneven classes, away from 0."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for count in (train, test):
        labels = torch.randint(0, classes + 1, (count,), generator=generator) % classes
        noise = torch.randn(count, width, generator=generator)
        found += [3 + noise + 1.5 * torch.eye(classes, width)[labels], labels]
    return found


@pytest.mark.parametrize("width", [6, 300])  # fewer features than images of an episode, and more
def test_the_predictions_are_those_of_scikit_learn_on_the_same_episodes(width, monkeypatch):
    monkeypatch.setattr(module, "_VALUES", 900)  # several parts
    train, labels, test, test_labels = data(width=width)
    found = fewshot(train, labels, test, test_labels, shots=(3, 8), episodes=4, seed=1)
    drawn = draw_episodes(labels, 8, 4, seed=1)
    mean = train.mean(0)
    here, there = (F.normalize(x - mean).double().numpy() for x in (train, test))
    for count, result in found.items():
        for ours, theirs in (
            (result.nearest_mean, NearestCentroid()),
            (result.linear, LogisticRegression(C=module.C, tol=1e-8, max_iter=10_000)),
        ):
            guesses = torch.stack(
                [
                    torch.from_numpy(theirs.fit(here[rows], labels[rows]).predict(there))
                    for rows in (episode[:, :count].flatten() for episode in drawn)
                ]
            )
            right = (guesses == test_labels).double()
            assert torch.equal(ours.correct, right.mean(0))
            torch.testing.assert_close(ours.episodes, 100 * right.mean(1))
            assert (
                ours.top1 == pytest.approx(100 * right.mean().item()) and ours.top1 > 28
            )  # chance is 25
            cells = (test_labels * 4 + guesses).flatten()
            assert torch.equal(ours.confusion, cells.bincount(minlength=16).view(4, 4))
            assert ours.top5 is None


@pytest.mark.parametrize("c", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("width", [5, 60])
def test_every_fit_is_at_scikit_learns_minimum(c, width):
    features, labels, *_ = data(train=3 * 40, width=width)
    sets, labels = F.normalize(features).view(3, 40, width), torch.arange(40) % 4
    sets[1, 1] = sets[1, 5]  # the same image twice
    weight, bias = fit_logistic(sets, labels, 4, c)
    for some, w, b in zip(sets, weight, bias, strict=True):
        reference = LogisticRegression(C=c, tol=1e-9, max_iter=10_000).fit(some.double(), labels)
        torch.testing.assert_close(w.double(), torch.tensor(reference.coef_), atol=2e-3, rtol=0)
        b, other = b.double(), torch.tensor(reference.intercept_)  # known up to a constant
        torch.testing.assert_close(b - b.mean(), other - other.mean(), atol=2e-3, rtol=0)


def test_episodes_hold_as_many_images_of_every_class_each_once_and_fewer_shots_are_part_of_more():
    labels = data()[1]
    drawn = draw_episodes(labels, 8, 30, seed=0)
    assert drawn.shape == (30, 4, 8)
    for episode in drawn:
        assert torch.equal(labels[episode], torch.arange(4)[:, None].expand(4, 8))
        assert len(episode.unique()) == 32
    assert len(drawn[:, 0].unique()) > 20  # others in each
    assert torch.equal(draw_episodes(labels, 3, 30, seed=0), drawn[:, :, :3])
    assert not torch.equal(draw_episodes(labels, 8, 30, seed=1), drawn)


def test_scale_and_offset_of_all_features_do_not_matter_and_a_class_of_test_alone_is_refused():
    train, labels, test, test_labels = data()
    first = fewshot(train, labels, test, test_labels, shots=(5,), episodes=5)[5]
    moved = fewshot(7 * train + 5, labels, 7 * test + 5, test_labels, shots=(5,), episodes=5)[5]
    assert (first.linear.top1, first.nearest_mean.top1) == pytest.approx(
        (moved.linear.top1, moved.nearest_mean.top1), abs=0.3
    )
    apart = torch.tensor([0, 2, 3, 7])  # numbers that no image has lie between
    gaps = fewshot(train, apart[labels], test, apart[test_labels], shots=(5,), episodes=5)[5]
    assert gaps.linear.top1 == first.linear.top1 and gaps.linear.confusion.shape == (8, 8)
    assert torch.equal(gaps.linear.confusion[apart][:, apart], first.linear.confusion)
    with pytest.raises(ValueError, match="are of classes that train has no image of"):
        fewshot(train, labels, test, test_labels + 1, shots=(5,), episodes=5)


def test_intervals_over_episodes_hold_the_mean_of_all_of_them():
    train, labels, test, test_labels = data(width=5)
    runs = [
        fewshot(train, labels, test, test_labels, shots=(2,), episodes=12, seed=seed)[2]
        for seed in range(100)
    ]
    for name in ("nearest_mean", "linear"):
        found = [getattr(run, name) for run in runs]
        truth = torch.cat([one.episodes for one in found]).mean()
        assert torch.cat([one.episodes for one in found]).std() > 3
        held = sum(one.interval[0] <= truth <= one.interval[1] for one in found)
        assert 90 <= held <= 99


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"shots": (5, 100)},
            "shots must be 1 to 16, the number of labeled images of class '2' of train, which has "
            "the fewest, got 100: take fewer shots, or label more images",
        ),
        ({"shots": (0,)}, "shots must be 1 to 16, .*, got 0: "),
        ({"shots": ()}, "shots must be 1 to 16, .*, got none: "),
        ({"episodes": 1}, "episodes must be 2 or more, since one has no interval, got 1"),
    ],
)
def test_bad_input_is_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        fewshot(*data(), **({"shots": (1,)} | options))


def test_shots_that_a_class_has_no_images_for_are_left_out_with_a_line(caplog):
    labels = torch.tensor([0] * 40 + [1] * 7)
    assert resolve_shots(None, 100, labels, {0: "cat", 1: "dog"}) == [1, 5]
    assert caplog.messages == [
        "few labels: more than 5 a class are left out, since class 'dog' of train has 7 labeled "
        "images"
    ]
    caplog.clear()
    assert resolve_shots(None, 100, torch.arange(40) % 2, {}) == [1, 5, 10, 20]
    assert resolve_shots((7, 3, 7), 100, labels, {}) == [7, 3] and not caplog.messages

"""Accuracy: counts by hand, and what cannot be compared."""

import pytest
import torch

from effssl.evaluation import Accuracy, knn, linear_probe
from effssl.evaluation.accuracy import best_guesses


def test_counts_by_hand():
    labels = torch.tensor([0, 0, 1, 2])
    guesses = torch.tensor([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [0, 5, 2, 3, 4], [2, 0, 1, 3, 4]])
    found = Accuracy.of(guesses, labels, 7)
    assert (found.top1, found.top5) == (50.0, 75.0)
    assert found.confusion[:3, :3].tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert found.confusion.sum() == 4
    assert found.per_class[:3].tolist() == [50.0, 0.0, 100.0] and found.per_class[3:].isnan().all()


def test_top5_is_of_more_than_five_classes_only():
    scores = torch.randn(20, 5)
    assert Accuracy.of(best_guesses(scores), torch.zeros(20).long(), 5).top5 is None
    scores = torch.randn(20, 6)
    worst = scores.argmin(1)
    assert Accuracy.of(best_guesses(scores), worst, 6).top5 == 0


DATA = {
    "train_features": torch.randn(30, 4),
    "train_labels": torch.arange(30) % 3,
    "test_features": torch.randn(9, 4),
    "test_labels": torch.arange(9) % 3,
}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"test_features": torch.randn(9, 5)}, "train has features 4 wide and test 5"),
        ({"train_labels": torch.arange(29) % 3}, "train has 30 features and 29 labels"),
        (
            {
                "train_features": DATA["train_features"]
                .clone()
                .index_fill_(0, torch.tensor(7), torch.inf)
            },
            "features of 1 of 30 images of train are not finite: the model is broken",
        ),
        ({"test_features": torch.full((9, 4), torch.nan)}, "9 of 9 images of test are not finite"),
        ({"train_labels": torch.ones(30).long()}, "all 30 images of train are of class 1"),
        (
            {"test_labels": torch.tensor([0, 1, 2, 0, 1, 2, 5, 3, 5])},
            r"3 of 9 images of test are of classes that train has no image of \(3, 5\)",
        ),
    ],
)
@pytest.mark.parametrize("classifier", [knn, linear_probe])
def test_what_cannot_be_compared_is_one_line(classifier, changes, message):
    options = {"k": (5,)} if classifier is knn else {}
    with pytest.raises(ValueError, match=message) as caught:
        classifier(*(DATA | changes).values(), **options)
    assert "\n" not in str(caught.value)

"""Accuracy: counts by hand, and what cannot be compared."""

from dataclasses import replace

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

from effssl.data.sources import Source
from effssl.evaluation import Accuracy, knn, linear_probe
from effssl.evaluation.accuracy import dense_labels, topk_classes


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
    assert Accuracy.of(topk_classes(scores), torch.zeros(20).long(), 5).top5 is None
    scores = torch.randn(20, 6)
    worst = scores.argmin(1)
    assert Accuracy.of(topk_classes(scores), worst, 6).top5 == 0


def rows(labels, names=None):
    kind = Value("int64") if names is None else ClassLabel(names=names)
    features = Features({"image": Value("int64"), "label": kind})
    cells = {"image": list(range(len(labels))), "label": labels}
    found = Dataset.from_dict(cells, features=features)
    return Source(found, "image", "label", 1, len(labels))


def test_classes_are_numbered_without_gaps():
    train, test, values = dense_labels(rows([7, 3, 10**6, 7]), rows([10**6, 3]))
    assert train.tolist() == [1, 0, 2, 1] and test.tolist() == [2, 0]
    assert values == [3, 7, 10**6]
    with pytest.raises(ValueError, match=r"classes that train has no image of \(5\)"):
        dense_labels(rows([7, 3]), rows([3, 5]))


@pytest.mark.parametrize(
    "names, labels, expected",
    [
        (["cat", "dog", "emu"], [2, 1], [2, 1]),
        (["dog", "emu"], [0, 1, 1], [1, 2, 2]),  # fewer
        (["emu", "cat", "dog"], [0, -1, 1, 2], [2, -1, 0, 1]),  # in another order
        (["ant", "cat", "owl", "dog"], [1, 3], [0, 1]),  # more, of which test has no image
        (None, [2, 0], [2, 0]),  # numbers alone are compared as numbers
    ],
)
def test_classes_are_matched_by_name(names, labels, expected):
    train = rows([0, 1, 2], ["cat", "dog", "emu"])
    assert dense_labels(train, rows(labels, names))[1].tolist() == expected


def test_classes_without_names_have_their_numbers_as_names():
    unnamed = rows([0, 1, 2])
    kind = Features(unnamed.dataset.features | {"label": ClassLabel(num_classes=3)})
    train = replace(unnamed, dataset=unnamed.dataset.cast(kind))
    assert dense_labels(train, rows([0, 1], ["2", "0"]))[1].tolist() == [2, 0]


def test_a_class_that_train_lacks_is_named():
    train, test = rows([0, 1, 2], ["cat", "dog", "emu"]), ["dog", "owl", "yak"]
    with pytest.raises(ValueError, match=r"2 of 3 images .* train has no image of \(owl, yak\)"):
        dense_labels(train, rows([0, 1, 2], test))
    with pytest.raises(ValueError, match=r"1 of 1 images .* train has no image of \(emu\)"):
        dense_labels(rows([0, 1], ["cat", "dog", "emu"]), rows([0], ["emu"]))


def test_images_without_a_label_have_class_minus_one():
    train, test, values = dense_labels(rows([7, None, 3, -1]), rows([-1, 3, None]))
    assert train.tolist() == [1, -1, 0, -1] and test.tolist() == [-1, 0, -1] and values == [3, 7]
    for labels in ([None, None], [-1, -1, -1]):
        with pytest.raises(
            ValueError,
            match=f"label column 'label' holds no class for any of the {len(labels)} images of "
            "test: name another with label_column; pretraining and the protocol spectrum need none",
        ):
            dense_labels(rows([7, 3]), rows(labels))


def test_several_labels_an_image_are_told_what_can_use_them():
    lists = Dataset.from_dict({"image": [0, 1], "label": [[0, 2], []]})
    with pytest.raises(ValueError, match="holds lists.* pretrain.* spectrum"):
        dense_labels(rows([0, 1]), Source(lists, "image", "label", 1, 2))


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
        (
            {"test_labels": torch.tensor([0, 1, -1, 0, 1, 2, -1, 1, 0])},
            "2 of 9 images of test have no label, which is -1: leave them out",
        ),
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

"""Splits and classes follow from folders alone: names mean nothing else than the rule says."""

import pytest
from image_folders import classes, paths, read, write

from effssl.data import load_source
from effssl.data._layout import SPLITS


@pytest.mark.parametrize(
    "names",
    [
        ["x000.png", "x001.png", "train.png"],
        ["img_000.png", "img_test_001.png", "test.png", "validation-1.png"],
        ["train2017/a.png", "val2017/b.png", "c.png"],
        ["train/a.png", "b.png"],
        ["data/train/a.png", "data/test/b.png"],
    ],
)
def test_words_in_names_are_no_splits(tmp_path, names):
    write(tmp_path, *names)
    assert sorted(paths(tmp_path)) == sorted(names)
    with pytest.raises(ValueError, match="has no split 'test', only train"):
        load_source(tmp_path, "test")


@pytest.mark.parametrize(
    "names", [("bus", "car", "train"), ("abbey", "train_interior", "train_station", "beach")]
)
def test_classes_called_like_splits_are_classes(tmp_path, names):
    write(tmp_path, *(f"{name}/{i}.png" for name in names for i in range(2)))
    assert classes(tmp_path) == [name for name in sorted(names) for _ in range(2)]


def test_splits_have_classes_called_like_splits(tmp_path):
    inner = [f"{name}/{i}.png" for name in ("bus", "car", "train") for i in range(2)]
    write(tmp_path, *(f"train/{path}" for path in inner), *(f"test/{path}" for path in inner))
    for split in ("train", "test"):
        assert paths(tmp_path, split) == [f"{split}/{path}" for path in inner]
        assert classes(tmp_path, split) == ["bus", "bus", "car", "car", "train", "train"]


def test_names_of_folders_like_those_of_coco_are_classes_only_where_the_rule_says_so(tmp_path):
    write(tmp_path, "train2017/a.png", "val2017/b.png")
    assert classes(tmp_path) == ["train2017", "val2017"]
    assert paths(tmp_path / "train2017") == ["a.png"]


def test_splits_without_classes_have_no_labels(tmp_path):
    write(tmp_path, "train/a.png", "train/b.png", "test/c.png")
    for split in ("train", "test", "train+test"):
        assert load_source(tmp_path, split).label_column is None
    assert paths(tmp_path, "test") == ["test/c.png"]


@pytest.mark.parametrize("name", [*SPLITS, "Train", "VAL", "Testing"])
def test_every_word_for_a_split_is_one_in_any_case(tmp_path, name):
    write(tmp_path, f"{name}/cat/1.png", f"{name}/dog/2.png")
    split = SPLITS[name.lower()]
    assert classes(tmp_path, split) == ["cat", "dog"]


def test_a_split_with_one_of_the_classes_has_labels_and_one_with_other_folders_has_none(tmp_path):
    write(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/dog/3.png", "test/images/4.png")
    assert classes(tmp_path) == ["cat", "dog"]
    assert load_source(tmp_path, "validation").labels() == [1]
    assert load_source(tmp_path, "test").label_column is None


def test_the_class_is_the_first_folder_as_in_torchvision(tmp_path):
    write(tmp_path, "cat/siam/1.png", "cat/2.png", "dog/a/b/3.png", "__background__/4.png")
    assert read(tmp_path) == [
        ("__background__/4.png", 3, "__background__"),
        ("cat/2.png", 1, "cat"),
        ("cat/siam/1.png", 0, "cat"),
        ("dog/a/b/3.png", 2, "dog"),
    ]

"""Names of splits as people give them, and splits by class."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as Pillow

from effssl.data import load_source
from effssl.data._splits import MissingSplit, names_of, resolve_split, stratified_rows

VALIDATION = ("val", "valid", "validation", "dev")


def write(folder, *names):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Pillow.new("RGB", (8, 8), (i, 2 * i, 3 * i)).save(folder / name)


def shelves(split, count):
    rows = {"image": [Pillow.new("L", (8, 8), i) for i in range(count)], "label": [0, 1] * count}
    rows["label"] = rows["label"][:count]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    return DatasetDict({"train": Dataset.from_dict(rows, features), split: Dataset.from_dict(rows)})


@pytest.mark.parametrize("there", ["val", "Valid", "validation", "dev"])
@pytest.mark.parametrize("name", VALIDATION)
def test_every_word_for_validation_finds_it_in_any_expression(name, there):
    assert resolve_split(name, ["train", there]) == there
    assert resolve_split(f"{name}[:50%]", ["train", there]) == f"{there}[:50%]"
    assert resolve_split(f"train[:3] + {name}", ["train", there]) == f"train[:3]+{there}"
    assert resolve_split("training", ["train", there]) == "train"
    with pytest.raises(MissingSplit, match=f"has no split 'test', only train, {there}: give"):
        resolve_split("test", ["train", there])


def test_a_name_that_is_there_stays_and_one_of_two_meanings_is_not_guessed():
    assert resolve_split("val", ["val", "validation"]) == "val"
    with pytest.raises(MissingSplit, match="has no split 'dev', only val, validation"):
        resolve_split("dev", ["val", "validation"])
    assert names_of("train[:10%]+val[5:](pct1_dropremainder)") == {"train", "val"}


@pytest.mark.parametrize("name", VALIDATION)
def test_sources_of_every_kind_know_the_words(name, tmp_path):
    names = [f"{split}/{c}/{i}.png" for split in ("train", "val") for c in "ab" for i in range(2)]
    write(tmp_path / "photos", *names)
    found = load_source(tmp_path / "photos", f"{name}[:50%]")
    assert (found.split, found.num_images) == ("validation[:50%]", 2)
    shelves("valid", 6).save_to_disk(tmp_path / "disk")
    assert load_source(str(tmp_path / "disk"), name).split == "valid"
    assert load_source(shelves("dev", 6), name, streaming=True).split == "dev"
    for split, rows in shelves("x", 6).items():
        rows.to_parquet(tmp_path / f"{'dev' if split == 'x' else split}-0.parquet")
    for streaming in (False, True):  # by the reader that the Hub takes, too
        found = load_source(f"{tmp_path}/*.parquet", name, streaming=streaming)
        assert (found.split, found.num_images) == ("validation", 6)
        with pytest.raises(MissingSplit, match="parquet' has no split 'test', only train, valid"):
            load_source(f"{tmp_path}/*.parquet", "test", streaming=streaming)


def test_rows_are_split_by_class_and_seed():
    labels = [0] * 50 + [1] * 10 + [2] * 2 + [3] + [-1] * 4
    train, test = stratified_rows(labels, 0.2, 0)
    assert sorted(train + test) == list(range(len(labels)))
    counts = [sum(labels[row] == label for row in test) for label in range(-1, 4)]
    assert counts == [0, 10, 2, 1, 0]
    assert stratified_rows(labels, 0.2, 0) == (train, test)
    assert stratified_rows(labels, 0.2, 1) != (train, test)
    assert test != list(range(10)) and test == sorted(test)
    train, test = stratified_rows(labels, 0.99, 0)
    assert [sum(labels[row] == label for row in train) for label in range(4)] == [1, 1, 1, 1]


def test_a_folder_of_classes_is_split_in_two(tmp_path):
    write(tmp_path, *(f"{c}/{i}.png" for c in ("cat", "dog", "emu") for i in range(10)))
    write(tmp_path, "rare/0.png")
    whole = load_source(tmp_path)
    train, test = whole.train_test_split()
    assert (train.num_images, test.num_images) == (len(train.dataset), len(test.dataset)) == (25, 6)
    assert not set(train.paths()) & set(test.paths())
    assert set(train.paths()) | set(test.paths()) == set(whole.paths())
    assert test.labels() == [0, 0, 1, 1, 2, 2] and train.class_names == test.class_names
    assert train.split == "train (80 %, stratified, seed 0)"
    assert test.split == "train (20 %, stratified, seed 0)"
    assert test.digest() != train.digest()
    other = whole.train_test_split(0.5, seed=3)[1]
    assert (other.num_images, other.split) == (15, "train (50 %, stratified, seed 3)")


def test_a_split_that_cannot_be_made_is_refused(tmp_path):
    write(tmp_path, "cat/0.png", "dog/1.png")
    found = load_source(tmp_path)
    with pytest.raises(ValueError, match="no class of the 2 images has two of them"):
        found.train_test_split()
    for share in (0, 1, -1, float("nan")):
        with pytest.raises(ValueError, match=f"above 0 and below 1, got {share}"):
            found.train_test_split(share)

"""load_source: every kind of source, its columns, its errors."""

import tempfile

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from effssl.data import load_source


def rows(n=6, columns=("image",), label="label"):
    pixels = [PILImage.fromarray(np.full((8, 9), i, np.uint8)) for i in range(n)]
    features = {c: Image() for c in columns} | {label: ClassLabel(names=["a", "b"])}
    return Dataset.from_dict(
        {c: pixels for c in columns} | {label: [i % 2 for i in range(n)]},
        features=Features(features),
    )


def test_the_sample_is_balanced_and_has_both_splits():
    for split, per_class in {"train": 1000, "test": 200}.items():
        source = load_source(split=split, in_chans=1)
        assert np.bincount(source.labels()).tolist() == [per_class] * 10
        image = source.dataset[0][source.image_column]
        assert (image.size, image.mode) == ((28, 28), "L")


def test_the_sample_has_no_image_twice():
    seen = {
        image.tobytes()
        for split in ("train", "test")
        for image in load_source(split=split, in_chans=1).dataset["image"]
    }
    assert len(seen) == 12_000


@pytest.mark.parametrize("in_chans, mode", [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_images_are_converted_to_the_channels_asked_for(image_folder, in_chans, mode):
    source = load_source(str(image_folder), in_chans=in_chans)
    assert source.dataset[0]["image"].mode == mode


def test_an_image_folder_takes_its_labels_from_its_subfolders(image_folder):
    source = load_source(str(image_folder))
    assert len(source.dataset) == 24 and sorted(set(source.labels())) == [0, 1]


def test_save_to_disk_folders_with_and_without_splits(tmp_path):
    rows().save_to_disk(tmp_path / "plain")
    assert len(load_source(str(tmp_path / "plain")).dataset) == 6
    DatasetDict(train=rows(), test=rows(4)).save_to_disk(tmp_path / "splits")
    assert len(load_source(str(tmp_path / "splits"), "test").dataset) == 4
    with pytest.raises(ValueError, match=r"split 'val': .*there are \['train', 'test'\]"):
        load_source(str(tmp_path / "splits"), "val")


def test_a_parquet_file_and_a_folder_of_them(tmp_path):
    data = rows()
    data.to_parquet(tmp_path / "train.parquet")
    assert len(load_source(str(tmp_path / "train.parquet")).dataset) == 6
    assert load_source(str(tmp_path), "train[:2]").labels() == [0, 1]


def test_columns_are_found_by_type_or_named():
    source = rows(columns=("photo",), label="kind")
    assert _with(source).image_column == "photo" and _with(source).label_column == "kind"
    two = rows(columns=("left", "right"))
    with pytest.raises(ValueError, match=r"2 image columns \['left', 'right'\].*image_column"):
        _with(two)
    assert _with(two, image_column="right").image_column == "right"
    with pytest.raises(ValueError, match="image_column 'middle' is not among"):
        _with(two, image_column="middle")
    with pytest.raises(ValueError, match="label_column 'age' is not among the columns"):
        _with(two, image_column="left", label_column="age")


def test_a_folder_named_like_a_reader_of_datasets_is_that_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parquet").mkdir()
    rows().to_parquet(tmp_path / "parquet" / "train.parquet")
    assert len(load_source("parquet").dataset) == 6
    with pytest.raises(FileNotFoundError, match="a Hub id is owner/name"):
        load_source("imagefolder")


def _with(dataset, read_labels=False, **columns):
    with tempfile.TemporaryDirectory() as folder:
        dataset.save_to_disk(f"{folder}/data")
        source = load_source(f"{folder}/data", **columns)
        if read_labels:
            source.labels()
        return source


def test_no_images_no_labels_and_no_rows_are_named(tmp_path):
    Dataset.from_dict({"x": [1]}, features=Features({"x": Value("int64")})).save_to_disk(
        tmp_path / "numbers"
    )
    with pytest.raises(ValueError, match=r"0 image columns \[\] among \['x'\]"):
        load_source(str(tmp_path / "numbers"))
    rows().select([]).save_to_disk(tmp_path / "none")
    with pytest.raises(ValueError, match="is empty"):
        load_source(str(tmp_path / "none"))
    rows().select([]).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="none.parquet', split 'train': .* no data"):
        load_source(str(tmp_path / "none.parquet"))
    rows().remove_columns("label").save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(ValueError, match="no label column among"):
        load_source(str(tmp_path / "unlabelled")).labels()
    for labels in (["cat", "dog"], [0, -1], [0, None]):
        data = rows(2).remove_columns("label").add_column("label", labels)
        with pytest.raises(ValueError, match="'label' holds .*; classes are whole numbers from 0"):
            _with(data, label_column="label", read_labels=True)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "no such thing"])
def test_a_missing_path_is_named(name):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load_source(name)


def test_a_hub_id_that_cannot_be_reached_says_so():
    with pytest.raises(FileNotFoundError, match="no data set 'nobody/nothing'.*Hub"):
        load_source("nobody/nothing")


def test_a_folder_without_images_and_a_file_that_is_no_parquet_are_refused(tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(FileNotFoundError, match="no images or parquet files in"):
        load_source(str(tmp_path / "notes"))
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(ValueError, match="must be .parquet"):
        load_source(str(tmp_path / "photo.png"))


def test_channels_that_image_files_do_not_have_are_refused():
    with pytest.raises(ValueError, match="in_chans=2: image files are read as 1"):
        load_source(in_chans=2)

"""load_source: the sample, names, splits, columns and labels, and what is refused."""

import tempfile

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from layouts import check, pixels, rows

from effssl.data import load_source


def test_the_sample_is_balanced_and_has_both_splits():
    for split, per_class in {"train": 1000, "test": 200}.items():
        source = load_source(split=split, in_chans=1)
        assert np.bincount(source.labels()).tolist() == [per_class] * 10
        assert source.num_images == len(source.dataset) == 10 * per_class
        assert pixels(source)[0].shape == (1, 28, 28)


def test_the_sample_has_no_image_twice():
    seen = {
        image.tobytes()
        for split in ("train", "test")
        for image in pixels(load_source(split=split, in_chans=1))
    }
    assert len(seen) == 12_000


@pytest.mark.parametrize("in_chans", [1, 3, 4])
def test_rows_are_not_decoded_and_the_source_knows_its_channels(image_folder, in_chans):
    source = load_source(str(image_folder), in_chans=in_chans)
    value = source.dataset[0]["image"]
    assert value["path"].endswith("cat/01.png") and value["bytes"] is None
    assert source.in_chans == in_chans and pixels(source)[0].shape == (in_chans, 21, 29)


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


def _with(dataset, **columns):
    with tempfile.TemporaryDirectory() as folder:
        dataset.save_to_disk(f"{folder}/data")
        return load_source(f"{folder}/data", **columns)


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
    rows().remove_columns("label").save_to_disk(tmp_path / "unlabeled")
    with pytest.raises(ValueError, match="no label column among"):
        load_source(str(tmp_path / "unlabeled")).labels()
    for labels, said in (([0.5, 1.5], "0.5; classes are names or"), ([[0], [1, 2]], "lists")):
        data = rows(2).remove_columns("label").add_column("label", labels)
        with pytest.raises(ValueError, match=f"'label' holds {said}"):
            load_source(data, label_column="label").labels()


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
        (["10", "9", None], [1, 0, -1], ("9", "10")),
        ([0.0, 2.0, float("nan")], [0, 2, -1], None),
        ([3, -1, None], [3, -1, -1], None),
        ([True, False, True], [1, 0, 1], None),
    ],
)
def test_labels_of_any_kind_are_numbered(labels, numbers, names):
    data = rows(3).remove_columns("label").add_column("label", labels)
    source = load_source(data)
    assert (source.labels(), source.class_names) == (numbers, names)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "no such thing"])
def test_a_missing_path_is_named(name):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load_source(name)


def test_a_hub_id_that_cannot_be_reached_says_so():
    with pytest.raises(FileNotFoundError, match="no data set 'nobody/nothing'.*Hub"):
        load_source("nobody/nothing")


def test_a_folder_without_images_and_a_file_that_is_no_parquet_are_refused(tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(FileNotFoundError, match="no images, archives.*there is nothing"):
        load_source(str(tmp_path / "notes"))
    (tmp_path / "notes" / "a.doc").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="no images, archives.*there are 1 .doc"):
        load_source(str(tmp_path / "notes"))
    with pytest.raises(ValueError, match="these are .doc files: a file or a pattern must give"):
        load_source(str(tmp_path / "notes" / "a.doc"))


def test_a_stream_has_no_slices(tmp_path):
    rows().to_parquet(tmp_path / "train.parquet")
    for split in ("train[:2]", "train+test"):
        with pytest.raises(ValueError, match="a stream has no slices or sums of splits"):
            load_source(str(tmp_path), split, streaming=True)


def test_files_that_are_not_what_they_are_called_are_one_line(tmp_path):
    for suffix in ("parquet", "tar"):
        (tmp_path / f"x.{suffix}").write_bytes(b"neither of them " * 100)
        for streaming in (False, True):
            with pytest.raises(ValueError, match=f"x.{suffix}', split 'train': "):
                load_source(str(tmp_path / f"x.{suffix}"), streaming=streaming)


def test_patterns_that_match_nothing_or_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'.*/\*.tar': no file matches that pattern"):
        load_source(f"{tmp_path}/*.tar")
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.md").write_text("text")
    with pytest.raises(ValueError, match="these are .md, .txt files: a file or a pattern must"):
        load_source(f"{tmp_path}/*")


def test_channels_that_image_files_do_not_have_are_refused():
    with pytest.raises(ValueError, match="in_chans=2: image files are read as 1"):
        load_source(in_chans=2)
    with pytest.raises(ValueError, match="in_chans=2: image files are read as 1"):
        load_source(in_chans=2, streaming=True)


def test_the_sample_streams():
    images = pixels(load_source(split="test", in_chans=1))
    check(
        "fashion-mnist-sample", images, load_source(split="test").labels(), split="test", in_chans=1
    )

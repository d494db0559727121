"""Rows beside images: metadata of a folder gives labels, and a column of paths gives images."""

import json
import logging

import pytest
from image_folders import classes, write

from effssl.data import decode_image, load_source


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_rows_of_metadata_give_labels_and_images_without_one_stay(tmp_path, caplog, kind):
    write(tmp_path, *(f"{i}.png" for i in range(5)))
    rows = [("0.png", "dog"), ("2.png", "cat"), ("4.png", "dog"), ("7.png", "cow")]
    metadata(tmp_path / f"metadata.{kind}", rows)
    with caplog.at_level(logging.INFO, "effssl"):
        assert classes(tmp_path) == ["dog", None, "cat", None, "dog"]
    assert f"{tmp_path}: 5 images; 2 classes" in caplog.messages
    assert "rows for 3 of 5 images" in caplog.text
    assert "no row for 2 (1.png, 3.png)" in caplog.text
    assert "no image for the rows of 1 (7.png)" in caplog.text
    assert load_source(tmp_path).labels() == [1, -1, 0, -1, 1]


def metadata(file, rows):
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    table = pyarrow.table({"file_name": [r[0] for r in rows], "label": [r[1] for r in rows]})
    if file.suffix == ".csv":
        pyarrow.csv.write_csv(table, file)
    elif file.suffix == ".parquet":
        pyarrow.parquet.write_table(table, file)
    else:
        file.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))


def test_metadata_of_splits_and_of_other_columns(tmp_path):
    write(tmp_path, "train/1.png", "train/2.png", "test/1.png")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,label,age\n1.png,a,3\n2.png,b,4\n")
    (tmp_path / "test" / "metadata.csv").write_text("file_name,label,age\n./1.png,b,5\n")
    assert classes(tmp_path) == ["a", "b"]
    assert load_source(tmp_path, label_column="age").labels() == [3, 4]
    assert load_source(tmp_path, "test", label_column="age").labels() == [5]


def test_metadata_labels_win_over_folders_and_others_leave_them(tmp_path):
    write(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "metadata.csv").write_text("file_name,age\na/1.png,3\nb/2.png,4\n")
    assert classes(tmp_path) == ["a", "b"]
    (tmp_path / "metadata.csv").write_text("file_name,label\na/1.png,x\nb/2.png,y\n")
    assert classes(tmp_path) == ["x", "y"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_column_of_paths_is_an_image_column(tmp_path, kind):
    write(tmp_path / "images", "1.png", "2.png")
    rows = [
        {"name": "first", "path": "images/1.png", "label": "x"},
        {"name": "second", "path": str(tmp_path / "images" / "2.png"), "label": "y"},
    ]
    file = tmp_path / f"rows.{kind}"
    if kind == "csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        file.write_text("\n".join(lines) + "\n")
    else:
        file.write_text("\n".join(json.dumps(row) for row in rows))
    source = load_source(file, in_chans=1)
    assert source.image_column == "path"
    values = [int(decode_image(row["path"], 1).mean()) for row in source.dataset]
    assert values == [0, 1] and source.labels() == [0, 1] and source.class_names == ("x", "y")
    assert source.paths() == ["images/1.png", "images/2.png"]
    with pytest.raises(ValueError, match="image_column 'nothing' is not among"):
        load_source(file, image_column="nothing")


def test_a_parquet_column_of_paths_is_an_image_column(tmp_path):
    import pyarrow
    import pyarrow.parquet

    write(tmp_path / "images", "1.png", "2.png")
    table = pyarrow.table({"file": ["images/1.png", "images/2.png"], "n": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    source = load_source(tmp_path / "rows.parquet", in_chans=1)
    assert [int(decode_image(row["file"], 1).mean()) for row in source.dataset] == [0, 1]
    stream = load_source(tmp_path / "rows.parquet", in_chans=1, streaming=True)
    assert [int(decode_image(row["file"], 1).mean()) for row in stream.dataset] == [0, 1]

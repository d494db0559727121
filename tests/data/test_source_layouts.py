"""Data in each layout is the same rows, as a map and as a stream: files, tars, parquet."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets
from layouts import check, noise, png, rows, write_tar
from PIL import Image as PILImage

from effssl.data import load_source
from effssl.data._decode import BrokenImage, decode_image


def test_an_image_folder_takes_its_labels_from_its_subfolders(image_folder):
    source = load_source(str(image_folder))
    assert len(source.dataset) == 24 and sorted(set(source.labels())) == [0, 1]


def test_save_to_disk_folders_with_and_without_splits(tmp_path):
    rows().save_to_disk(tmp_path / "plain")
    assert len(load_source(str(tmp_path / "plain")).dataset) == 6
    DatasetDict(train=rows(), test=rows(4)).save_to_disk(tmp_path / "splits")
    assert len(load_source(str(tmp_path / "splits"), "test").dataset) == 4
    with pytest.raises(ValueError, match="/splits' has no split 'val', only train, test: give "):
        load_source(str(tmp_path / "splits"), "val")


def test_a_parquet_file_and_a_folder_of_them(tmp_path):
    data = rows()
    data.to_parquet(tmp_path / "train.parquet")
    assert len(load_source(str(tmp_path / "train.parquet")).dataset) == 6
    assert load_source(str(tmp_path), "train[:2]").labels() == [0, 1]


def test_image_folders_and_patterns_of_images(tmp_path):
    images = noise(6, 3, 8, 9)
    for i, image in enumerate(images):
        file = tmp_path / "ab"[i // 3] / f"{i}.{['png', 'bmp', 'tif'][i % 3]}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(png(image, ["PNG", "BMP", "TIFF"][i % 3]))
    labels = [0, 0, 0, 1, 1, 1]
    check(tmp_path, images, labels)
    check(f"{tmp_path}/**/*.*", images, labels)
    check(f"{tmp_path}/[ab]/*", images, labels)
    check(f"{tmp_path}/a/*", images[:3])
    assert load_source(f"{tmp_path}/*/*", "train[50%:]").labels() == [1, 1, 1]
    with pytest.raises(ValueError, match="has no split 'test', only train: give "):
        load_source(f"{tmp_path}/*/*", "test")


def test_images_with_captions_beside_them_are_still_images(tmp_path):
    images = noise(3, 3, 8, 9)
    for i, image in enumerate(images):
        (tmp_path / f"{i}.png").write_bytes(png(image))
        (tmp_path / f"{i}.txt").write_text("a caption")
        (tmp_path / f"{i}.json").write_text("{}")
    check(tmp_path, images)


def test_broken_files_are_rows_like_any_other(tmp_path):
    good = noise(1, 3, 8, 9)[0]
    contents = [b"", b"text", png(good), png(good)[:60]]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.png").write_bytes(content)
    write_tar(tmp_path / "x.tar", contents, [0, 1, 2, 3])
    for name in (f"{tmp_path}/*.png", str(tmp_path / "x.tar")):
        for streaming in (False, True):
            source = load_source(name, streaming=streaming)
            values = [row[source.image_column] for row in source.dataset]
            assert len(values) == 4
            np.testing.assert_array_equal(decode_image(values[2], 3), good)
            for i in (0, 1, 3):
                with pytest.raises(BrokenImage):
                    decode_image(values[i], 3)
    (tmp_path / "x.tar").unlink()
    assert len(load_source(str(tmp_path)).dataset) == 4


def test_16_bit_tiffs(tmp_path):
    images = noise(3, 8, 9, dtype=np.uint16, high=65536)
    for i, image in enumerate(images):
        PILImage.fromarray(image).save(tmp_path / f"{i}.tiff")
    expected = [(image[None].astype(int) + 128) // 257 for image in images]
    check(tmp_path, expected, in_chans=1)
    check(f"{tmp_path}/*.tiff", expected, in_chans=1)


def test_tars_alone_in_a_folder_and_by_pattern(tmp_path):
    images, labels = noise(5, 3, 8, 9), [3, 1, 0, 2, 1]
    files = [png(image) for image in images]
    write_tar(tmp_path / "part-0.tar", files[:3], labels[:3])
    write_tar(tmp_path / "part-1.tar", files[3:], labels[3:])
    stream = load_source(f"{tmp_path}/part-*.tar", streaming=True)
    assert stream.num_images is None  # until it was prepared once, and datasets knows
    assert (stream.image_column, stream.label_column) == ("png", "cls")
    for name, part in ((tmp_path / "part-0.tar", slice(3)), (tmp_path, slice(5))):
        check(name, images[part], labels[part])
    check(f"{tmp_path}/part-*.tar", images, labels)


def test_a_tar_is_not_mixed_up_with_the_files_it_was_made_of(tmp_path, monkeypatch):
    inside, outside = noise(2, 3, 8, 9)
    write_tar(tmp_path / "x.tar", [png(inside)], [0])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0000.png").write_bytes(png(outside))
    check(tmp_path / "x.tar", [inside], [0])


def test_parquet_alone_in_a_folder_and_by_pattern(tmp_path):
    data = rows()
    expected = [np.full((1, 8, 9), i) for i in range(6)]
    embedded = [{"bytes": png(np.repeat(image, 3, 0).astype(np.uint8))} for image in expected]
    for part, select in (("0", range(4)), ("1", range(4, 6))):
        data.select(select).to_parquet(tmp_path / f"train-{part}.parquet")
    check(tmp_path / "train-0.parquet", expected[:4], [0, 1, 0, 1], in_chans=1)
    check(tmp_path, expected, [0, 1] * 3, in_chans=1)
    check(f"{tmp_path}/train-*.parquet", expected, [0, 1] * 3, in_chans=1)
    assert load_source(f"{tmp_path}/*.parquet", "train[4:]").labels() == [0, 1]
    # parquet of others says nothing about images
    for name, column in (("bytes", [cell["bytes"] for cell in embedded]), ("struct", embedded)):
        kind = (
            Value("binary")
            if name == "bytes"
            else {"bytes": Value("binary"), "path": Value("string")}
        )
        cells = column if name == "bytes" else [cell | {"path": None} for cell in column]
        plain = Dataset.from_dict(
            {"x": cells, "n": list(range(6))}, Features(x=kind, n=Value("int32"))
        )
        plain.to_parquet(tmp_path / f"{name}.parquet")
        check(tmp_path / f"{name}.parquet", expected, in_chans=1)
        check(tmp_path / f"{name}.parquet", expected, in_chans=1, image_column="x")
        with pytest.raises(ValueError, match=r"image_column 'n' is not among .*\['x'\]"):
            load_source(str(tmp_path / f"{name}.parquet"), image_column="n")


def test_save_to_disk_streams_and_slices(tmp_path):
    rows().save_to_disk(tmp_path / "plain")
    DatasetDict(train=rows(), test=rows(4)).save_to_disk(tmp_path / "splits")
    expected = [np.full((3, 8, 9), i) for i in range(6)]
    check(tmp_path / "plain", expected, [0, 1] * 3)
    check(tmp_path / "splits", expected[:4], [0, 1] * 2, split="test")
    assert load_source(str(tmp_path / "splits"), "train[4:]+test[:1]").labels() == [0, 1, 0]
    with pytest.raises(ValueError, match="/plain' has no split 'test', only train: give "):
        load_source(str(tmp_path / "plain"), "test")


def test_a_stream_shuffles_over_many_shards(tmp_path):
    concatenate_datasets([rows()] * 20).save_to_disk(tmp_path / "data")
    stream = load_source(str(tmp_path / "data"), streaming=True)
    assert stream.dataset.num_shards == 64 and stream.num_images == 120

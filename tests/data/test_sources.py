"""load_source: every kind of source, as a map and as a stream, its columns, its errors."""

import io
import json
import tarfile
import tempfile

import numpy as np
import pytest
from datasets import (
    Array3D,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    List,
    Value,
    concatenate_datasets,
)
from PIL import Image as PILImage

from effssl.data import load_source
from effssl.data._decode import BrokenImage, decode_image


def pixels(source):
    return [decode_image(row[source.image_column], source.in_chans) for row in source.dataset]


def check(name, images, labels=None, known=True, **options):
    """Both the map and the stream of a source hold these images, (C, H, W), and labels."""
    source = load_source(str(name), **options)
    stream = load_source(str(name), streaming=True, **options)
    assert (source.streaming, stream.streaming) == (False, True)
    assert source.num_images == len(source.dataset) == len(images) > 0
    assert stream.num_images == (len(images) if known else None)
    for read in (source, stream):
        assert len(pixels(read)) == len(images)
        for image, expected in zip(pixels(read), images, strict=True):
            np.testing.assert_array_equal(image, expected)
        if labels is None:
            assert read.label_column is None
        else:
            assert [row[read.label_column] for row in read.dataset] == labels
    if labels is not None:
        assert source.labels() == labels
        with pytest.raises(ValueError, match="labels need a map-style source"):
            stream.labels()


def png(image, format="PNG"):
    """(C, H, W) as the bytes of an image file."""
    file = io.BytesIO()
    PILImage.fromarray(np.moveaxis(image, 0, -1)).save(file, format)
    return file.getvalue()


def noise(n, *shape, dtype=np.uint8, high=256):
    return list(np.random.default_rng(0).integers(0, high, (n, *shape)).astype(dtype))


def write_tar(path, images, labels, extension="png"):
    with tarfile.open(path, "w") as archive:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            members = {
                extension: image,
                "cls": b"%d" % label,
                "json": json.dumps({"i": i}).encode(),
            }
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{i:04}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def rows(n=6, columns=("image",), label="label"):
    images = [PILImage.fromarray(np.full((8, 9), i, np.uint8)) for i in range(n)]
    features = {c: Image() for c in columns} | {label: ClassLabel(names=["a", "b"])}
    return Dataset.from_dict(
        {c: images for c in columns} | {label: [i % 2 for i in range(n)]},
        features=Features(features),
    )


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
    rows().remove_columns("label").save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(ValueError, match="no label column among"):
        load_source(str(tmp_path / "unlabelled")).labels()
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


# each kind of source, as a map and as a stream


def test_the_sample_streams():
    images = pixels(load_source(split="test", in_chans=1))
    check(
        "fashion-mnist-sample", images, load_source(split="test").labels(), split="test", in_chans=1
    )


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


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "bool", "float32"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_columns_of_arrays(tmp_path, dtype, channels_last):
    high = {"uint8": 256, "uint16": 65536}.get(dtype, 2)
    arrays = noise(3, 6, 8, 9, dtype=dtype, high=high)
    scale = {"uint8": 1, "uint16": 1 / 257}.get(dtype, 255)
    expected = [np.rint(array.astype(float) * scale) for array in arrays]
    if channels_last:
        arrays = [np.moveaxis(array, 0, -1) for array in arrays]
    columns = {"x": arrays, "label": [2, 0, 1]}
    fixed = {"x": Array3D(arrays[0].shape, dtype), "label": Value("int64")}
    nested = {"x": List(List(List(Value(dtype)))), "label": Value("int64")}
    for name, features in (("fixed", fixed), ("nested", nested)):
        data = Dataset.from_dict(columns, Features(features))
        data.to_parquet(tmp_path / f"{name}.parquet")
        data.save_to_disk(tmp_path / name)
        for path in (tmp_path / f"{name}.parquet", tmp_path / name):
            check(path, expected, [2, 0, 1], in_chans=6, image_column="x")
    check(tmp_path / "fixed", expected, [2, 0, 1], in_chans=6)
    with pytest.raises(ValueError, match=r"fixed': an array of shape .* does not have in_chans=3"):
        load_source(str(tmp_path / "fixed"))
    with pytest.raises(ValueError, match="0 image columns"):
        load_source(str(tmp_path / "nested"), in_chans=6)


def test_arrays_of_many_sizes_and_one_that_is_none(tmp_path):
    arrays = [noise(1, 8 + i, 9, 2, dtype=np.uint16, high=65536)[0] for i in range(3)]
    kind = Array3D((None, 9, 2), "uint16")
    Dataset.from_dict({"x": arrays}, Features(x=kind)).save_to_disk(tmp_path / "sizes")
    check(
        tmp_path / "sizes",
        [np.moveaxis((a.astype(int) + 128) // 257, -1, 0) for a in arrays],
        in_chans=2,
    )
    nested = [arrays[0].tolist(), None, [[[1, 2]], [[3]]]]
    data = Dataset.from_dict({"x": nested}, Features(x=List(List(List(Value("uint16"))))))
    data.to_parquet(tmp_path / "x.parquet")
    for streaming in (False, True):
        name = str(tmp_path / "x.parquet")
        source = load_source(name, in_chans=2, image_column="x", streaming=streaming)
        values = [row["x"] for row in source.dataset]
        assert decode_image(values[0], 2).shape == (2, 8, 9)
        for value in values[1:]:
            with pytest.raises(BrokenImage):
                decode_image(value, 2)


def test_folders_and_patterns_of_npy_files(tmp_path):
    images = noise(6, 5, 8, 9)
    for i, image in enumerate(images):
        file = tmp_path / "flat" / f"{i}.npy"
        file.parent.mkdir(exist_ok=True)
        np.save(file, image)
        for layout in ("ba"[i % 2], f"{['train', 'val'][i // 4]}/{'ba'[i % 2]}"):
            nested = tmp_path / ("classes" if len(layout) == 1 else "splits") / layout / file.name
            nested.parent.mkdir(parents=True, exist_ok=True)
            np.save(nested, np.moveaxis(image, 0, -1))
    (tmp_path / "flat" / "about.json").write_text("{}")
    by_class = images[1::2] + images[::2]
    check(tmp_path / "flat", images, in_chans=5)
    check(tmp_path / "classes", by_class, [0, 0, 0, 1, 1, 1], in_chans=5)
    check(f"{tmp_path}/classes/**/*.npy", by_class, [0, 0, 0, 1, 1, 1], in_chans=5)
    check(f"{tmp_path}/flat/*.npy", images, in_chans=5)
    train = [images[i] for i in (1, 3, 0, 2)]
    check(tmp_path / "splits", train, [0, 0, 1, 1], in_chans=5)
    check(tmp_path / "splits", [images[5], images[4]], [0, 1], in_chans=5, split="validation")
    assert load_source(str(tmp_path / "flat"), "train[:50%]", in_chans=5).num_images == 3
    with pytest.raises(ValueError, match=r"shape \(5, 8, 9\) does not have in_chans=3"):
        load_source(str(tmp_path / "flat"))


def test_npy_files_that_change_are_other_rows(tmp_path):
    np.save(tmp_path / "x.npy", noise(1, 3, 8, 9)[0])
    before = load_source(str(tmp_path)).digest()
    assert load_source(str(tmp_path)).digest() == before
    np.save(tmp_path / "x.npy", noise(2, 3, 8, 9)[1])
    assert load_source(str(tmp_path)).digest() != before


def test_a_stream_shuffles_over_many_shards(tmp_path):
    concatenate_datasets([rows()] * 20).save_to_disk(tmp_path / "data")
    stream = load_source(str(tmp_path / "data"), streaming=True)
    assert stream.dataset.num_shards == 64 and stream.num_images == 120


def test_empty_cells_among_arrays_are_refused(tmp_path):
    features = Features({"image": Array3D((2, 4, 4), "uint8")})
    data = Dataset.from_dict({"image": [np.zeros((2, 4, 4), np.uint8), None]}, features=features)
    data.save_to_disk(tmp_path / "arrays")
    with pytest.raises(ValueError, match="1 cells of the column 'image' are empty"):
        load_source(str(tmp_path / "arrays"), in_chans=2)

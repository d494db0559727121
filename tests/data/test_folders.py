"""The rule of folders: every image is read or named, and names mean nothing else than it says."""

import io
import json
import logging
import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from effssl.data import BrokenImage, decode_image, load_source
from effssl.data._folders import list_folder
from effssl.data._layout import SPLITS, arrange
from effssl.data._suffixes import image_suffixes


def png(value=0):
    file = io.BytesIO()
    PILImage.new("L", (4, 4), value).save(file, "PNG")
    return file.getvalue()


def write(root, *paths):
    """Write an image to each path, gray of its place."""
    for value, path in enumerate(paths):
        file = os.path.join(os.fsencode(root), os.fsencode(path))
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "wb") as opened:
            opened.write(png(value))


def read(data, split="train", **options):
    """Return path, gray value and class of every image."""
    source = load_source(data, split, in_chans=1, **options)
    values = [int(decode_image(row["image"], 1).mean()) for row in source.dataset]
    labels = [None] * len(values)
    if source.label_column is not None:
        names = (*source.class_names, None)
        labels = [names[label] for label in source.labels()]
    return list(zip(source.paths(), values, labels, strict=True))


def paths(data, split="train", **options):
    return [path for path, _, _ in read(data, split, **options)]


def classes(data, split="train", **options):
    return [label for _, _, label in read(data, split, **options)]


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


def test_folders_with_special_names_are_read(tmp_path):
    for name in ("[D_DATA] set", "what*", "a::b", "x://y", "parquet", "spaces  in"):
        write(tmp_path / name, "cat/1.png", "scan::1.png", "tab\there.png", "new\nline.png")
        assert sorted(value for _, value, _ in read(tmp_path / name)) == [0, 1, 2, 3]


def test_links_are_followed_and_what_leads_nowhere_is_named(tmp_path, caplog):
    write(tmp_path / "elsewhere", "cat/1.png", "dog/2.png", "3.png")
    data = tmp_path / "data"
    data.mkdir()
    (data / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (data / "dog").symlink_to("../elsewhere/dog")
    (data / "dog2").mkdir()
    (data / "dog2" / "3.png").symlink_to(tmp_path / "elsewhere" / "3.png")
    (data / "cat" / "back").symlink_to(data)  # and hence elsewhere/cat/back
    (data / "gone.png").symlink_to("nowhere.png")
    (data / "gone").symlink_to("nowhere")
    with caplog.at_level(logging.INFO, "effssl"):
        assert [(value, label) for _, value, label in read(data)] == [
            (0, "cat"),
            (1, "dog"),
            (2, "dog2"),
        ]
    said = caplog.text
    assert "3 images; 3 classes" in said
    for message in ("gone.png: a link to nothing", "gone: a link", "cat/back: a link to a folder"):
        assert message in said


def test_hidden_files_and_what_systems_leave_are_no_images(tmp_path):
    write(
        tmp_path,
        "a/1.png",
        "b/2.png",
        ".ipynb_checkpoints/1.png",
        "a/.ipynb_checkpoints/1.png",
        "a/._1.png",
        "__MACOSX/a/1.png",
        ".hidden.png",
        "@eaDir/1.png",
    )
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    assert classes(tmp_path) == ["a", "b"]
    np.save(tmp_path / "a" / "._0.npy", np.zeros((4, 4), np.uint8))
    assert classes(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("suffix", ["PNG", "Png", "Jpeg", "JPG", "avif", "TIF", "webp", "bmp"])
def test_suffixes_count_in_any_case(tmp_path, suffix):
    if f".{suffix.lower()}" not in image_suffixes():
        pytest.skip("this Pillow does not read it")
    PILImage.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / f"x.{suffix}")
    ((_, value, _),) = read(tmp_path)
    assert abs(value - 9) < 3


def test_files_of_other_kinds_are_left_and_counted(tmp_path, caplog):
    write(tmp_path, *(f"images/{i}.png" for i in range(3)))
    others = ["a.mp4", "b.wav", "c.xml", "d.csv", "README.md", "e.json", "f.h5", "g.eps", "LICENSE"]
    for name in others:
        (tmp_path / name).write_text("something")
    (tmp_path / "labels").mkdir()
    for i in range(20):
        (tmp_path / "labels" / f"{i}.txt").write_text("0 0.5 0.5 1 1")
    with caplog.at_level(logging.INFO, "effssl"):
        assert len(read(tmp_path)) == 3
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path}: 3 images; no classes; left 20 .txt, ")
    assert "more" in line


def test_images_that_need_an_extra_are_named_with_it(tmp_path, caplog, monkeypatch):
    from effssl.data import _folders, _image_folders

    write(tmp_path, "a.png")
    (tmp_path / "b.heic").write_bytes(b"x")
    known = frozenset(image_suffixes() - {".heic"})
    monkeypatch.setattr(_folders, "image_suffixes", lambda: known)
    monkeypatch.setattr(
        _image_folders, "lacking_extra", {".heic": "pip install 'effssl[heic]'"}.get
    )
    with caplog.at_level(logging.INFO, "effssl"):
        assert paths(tmp_path) == ["a.png"]
    assert "left 1 .heic (pip install 'effssl[heic]')" in caplog.text


def test_names_of_any_bytes_are_read_and_shown_as_text(tmp_path):
    names = [b"caf\xe9.png", b"\xff\xfe/1.png", "naïve/2.png".encode(), b"n\x1b[31m/3.png"]
    for value, name in enumerate(names):
        file = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        Path(os.fsdecode(file)).write_bytes(png(value))
    found = {path: value for path, value, _ in read(tmp_path)}
    assert found == {
        "caf\\xe9.png": 0,
        "\\xff\\xfe/1.png": 1,
        "naïve/2.png": 2,
        "n\\x1b[31m/3.png": 3,
    }
    Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), names[0]))).write_bytes(b"")
    for message in broken(tmp_path):
        message.encode()  # text
        assert "caf\\xe9.png" in message


def broken(data):
    from effssl.data._loader import DecodedImages

    source = load_source(data, in_chans=1)
    images = DecodedImages(source, 8).__getitems__(range(len(source.dataset)))
    return [str(image) for image in images if isinstance(image, BrokenImage)]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, caplog, monkeypatch):
    write(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):  # the tests may run as root, who may read everything
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert paths(tmp_path) == ["a/1.png", "c/3.png"]
    assert "left b/: the folder cannot be read: Permission denied" in caplog.text


def test_a_fifo_is_named_and_not_waited_for(tmp_path, caplog):
    write(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert paths(tmp_path) == ["a.png"]
    assert "left b.png: no regular file" in caplog.text


def test_folders_may_be_nested_more_deeply_than_python_calls(tmp_path):
    here, depth = os.getcwd(), 1500
    os.chdir(tmp_path)
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        Path("x.png").write_bytes(png())
        assert list_folder(str(tmp_path)).images == ["d/" * depth + "x.png"]
    finally:  # pytest's own removal is recursive
        os.remove("x.png")
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")
        os.chdir(here)


# metadata


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


# archives


def archive(file, *names):
    """Write an archive of the kind that its ending says, with the gray of its place in each."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as opened:
            for value, name in enumerate(names):
                opened.writestr(name, png(value))
        return
    with tarfile.open(file, f"w:{file.suffix[1:].replace('tgz', 'gz')}") as opened:
        for value, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = len(png(value))
            opened.addfile(info, io.BytesIO(png(value)))


ENDINGS = [".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("top", ["", "photos/", "./"])
def test_an_archive_of_class_folders_is_read_in_place(tmp_path, ending, top, cache_folder):
    if top == "./" and ending == ".zip":
        top = ""
    file = tmp_path / f"photos{ending}"
    archive(file, f"{top}cat/1.png", f"{top}dog/2.png", f"{top}dog/.hidden.png", f"{top}notes.txt")
    for data in (file, tmp_path, f"{tmp_path}/*{ending}"):
        found = read(data)
        assert [(value, label) for _, value, label in found] == [(0, "cat"), (1, "dog")]
    assert found[0][0].endswith("cat/1.png")


def test_several_archives_are_splits_or_classes_by_their_names(tmp_path):
    (tmp_path / "splits").mkdir()
    for name in ("train", "test"):
        file = tmp_path / "splits" / f"{name}.zip"
        archive(file, f"{name}/cat/1.png", f"{name}/dog/2.png")
        assert classes(file) == ["cat", "dog"]
    for split in ("train", "test"):
        assert classes(tmp_path / "splits", split) == ["cat", "dog"]
    (tmp_path / "kinds").mkdir()
    for name in ("cat", "dog"):
        archive(tmp_path / "kinds" / f"{name}.zip", "1.png", "2.png")
    assert classes(tmp_path / "kinds") == ["cat", "cat", "dog", "dog"]


def test_archives_beside_images_are_left(tmp_path, caplog):
    write(tmp_path, "a.png")
    archive(tmp_path / "a.zip", "a.png")
    with caplog.at_level(logging.INFO, "effssl"):
        assert paths(tmp_path) == ["a.png"]
    assert "left 1 .zip" in caplog.text


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_a_damaged_archive_is_one_line(tmp_path, ending, cache_folder):
    (tmp_path / f"x{ending}").write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=f"x{ending} is damaged: "):
        load_source(tmp_path)
    archive(tmp_path / f"x{ending}", "a.png", "b.png")
    content = (tmp_path / f"x{ending}").read_bytes()
    (tmp_path / f"x{ending}").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"x{ending} is damaged: "):
        load_source(tmp_path)


def test_a_damaged_image_in_an_archive_is_one_broken_image(tmp_path):
    archive(tmp_path / "x.zip", "a.png", "b.png")
    with zipfile.ZipFile(tmp_path / "x.zip", "a") as opened:
        opened.writestr("c.png", b"no image")
    assert broken(tmp_path) == [f"{tmp_path}/x.zip/c.png (row 2): not an image of a known format"]


# objects


def test_objects_in_memory(tmp_path):
    write(tmp_path, "b.png", "a.png", "caf\udce9.png")
    files = [tmp_path / "b.png", str(tmp_path / "a.png"), str(tmp_path / "caf\udce9.png")]
    assert [value for _, value, _ in read(files)] == [0, 1, 2]  # in the order given
    images = [PILImage.new(mode, (4, 5), color) for mode, color in [("L", 3), ("RGB", (5,) * 3)]]
    assert [value for _, value, _ in read(images)] == [3, 5]
    arrays = np.arange(3, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(6, 2)
    for data in (arrays, list(arrays), [array[..., None] for array in arrays]):
        assert [value for _, value, _ in read(data)] == [0, 1, 2]
    assert read(images, "train[1:]")[0][1] == 5
    for wrong in (3, {"a": 1}, [b"bytes"], [None], [np.zeros(3)]):
        with pytest.raises(TypeError, match="is no data set|item 0 of the list is"):
            load_source(wrong)
    with pytest.raises(FileNotFoundError, match="no file 'nowhere.png', item 0"):
        load_source(["nowhere.png"])


def test_datasets_in_memory():
    from datasets import Dataset, DatasetDict

    images = [PILImage.new("L", (4, 4), value) for value in range(4)]
    data = Dataset.from_dict({"image": images, "label": ["a", "b", "a", "b"]})
    assert load_source(data, in_chans=1).labels() == [0, 1, 0, 1]
    splits = DatasetDict(train=data.select([0, 1, 2]), test=data.select([3]))
    assert load_source(splits, "test", in_chans=1).num_images == 1
    stream = load_source(data.to_iterable_dataset(), in_chans=1)
    assert stream.streaming and len(list(stream.dataset)) == 4


# any tree

NAMES = st.one_of(
    st.sampled_from(["train", "test", "val", "Training", "a", "b", "dog", ".h", "__MACOSX", "x y"]),
    st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1),
    st.binary(min_size=1, max_size=4).map(lambda b: os.fsdecode(b.replace(b"/", b"s"))),
).filter(lambda name: name not in (".", "..") and "\0" not in name and len(os.fsencode(name)) < 90)
ENDS = st.sampled_from([".png", ".PNG", ".jpg", ".npy", ".txt", ".csv", ".zip", "", ".", ".gz"])
PATHS = st.tuples(st.lists(NAMES, max_size=3), NAMES, ENDS)
LINKS = st.tuples(st.lists(NAMES, max_size=2), NAMES, ENDS, st.integers(0, 30))


@settings(
    deadline=None, max_examples=200, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(st.lists(PATHS, min_size=1, max_size=15), st.lists(LINKS, max_size=4))
@example([([], "train", ".png"), ([], "x", ".png")], [])
@example([(["train"], "a", ".png"), (["test"], "b", ".png")], [(["train"], "l", "", 1)])
@example([(["a"], "a", ".png")], [(["a"], "loop", "", 0), ([], "gone.png", "", 30)])
def test_any_image_of_any_tree_is_read_or_named(files, links):
    with tempfile.TemporaryDirectory() as root:
        grow(root, files, links)
        expected = count_images(root)
        listing = list_folder(root)
        named = [message for message in listing.left if not is_folder_message(message)]
        assert len(listing.images) + len(named) == expected
        splits = arrange(listing.images)
        assert sorted(i for split in splits.values() for i in split.images) == list(
            range(len(listing.images))
        )
        for split in splits.values():
            assert split.classes is None or len(split.classes) == len(split.images)
        read_every_split(root, splits, listing)


def read_every_split(root, splits, listing):
    """Every image of every split is opened under its own name."""
    for name, split in splits.items():
        source = load_source(root, name, in_chans=1)
        assert source.num_images == len(split.images)
        cells = source.dataset["image"][:]
        for place, cell in zip(split.images, cells, strict=True):
            path = os.path.join(root, listing.images[place])
            try:
                assert int(decode_image(cell, 1).mean()) == os.stat(path).st_mtime_ns % 256
            except BrokenImage:
                assert listing.images[place].lower().endswith((".npy", ".jpg"))


def grow(root, files, links):
    made = []
    for folders, name, end in files:
        folder = os.path.join(root, *folders)
        try:
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, name + end), "xb") as file:
                file.write(png(len(made)))
        except OSError:  # a file of that name is in the way
            continue
        os.utime(file.name, ns=(len(made), len(made)))  # an image is known by its time
        made += [file.name, folder]
    for folders, name, end, target in links:
        folder = os.path.join(root, *folders)
        try:
            os.makedirs(folder, exist_ok=True)
            at = made[target] if target < len(made) else os.path.join(root, "nothing there")
            os.symlink(at, os.path.join(folder, name + end))
        except OSError:
            continue


def is_folder_message(message):
    return message.endswith(("a link to a folder above it", "a link to nothing")) and not (
        message.rpartition(": ")[0].lower().endswith((".png", ".jpg", ".npy"))
    )


def count_images(root):
    """Count image files as a person would, by recursion over real paths."""
    ends = (".png", ".jpg", ".npy")

    def below(folder, above):
        count = 0
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if name.startswith(".") or name == "__MACOSX":
                continue
            if os.path.isdir(path):
                real = os.path.realpath(path)
                if real in above:
                    count += name.lower().endswith(ends)  # named as left
                else:
                    count += below(path, above | {real})
            elif name.lower().endswith(ends) and name.lower() not in ends:
                count += 1
        return count

    return below(root, {os.path.realpath(root)})


@pytest.fixture
def cache_folder(tmp_path_factory, monkeypatch):
    from effssl.data import _archives

    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setattr(_archives, "HF_HOME", str(folder))
    yield folder
    shutil.rmtree(folder)

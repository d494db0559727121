"""Every image of a folder is read or named, whatever the tree and its names are made of."""

import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from image_folders import broken, classes, paths, png, read, write
from PIL import Image as PILImage

from effssl.data import BrokenImage, decode_image, load_source
from effssl.data._folders import list_folder
from effssl.data._layout import arrange
from effssl.data._suffixes import image_suffixes


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

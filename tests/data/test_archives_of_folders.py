"""Archives of folders are read in place, by the rule of folders."""

import io
import logging
import shutil
import tarfile
import zipfile

import pytest
from image_folders import broken, classes, paths, png, read, write

from effssl.data import load_source


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


@pytest.fixture
def cache_folder(tmp_path_factory, monkeypatch):
    from effssl.data import _archives

    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setattr(_archives, "HF_HOME", str(folder))
    yield folder
    shutil.rmtree(folder)


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

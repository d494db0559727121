"""A cache that cannot be written or locked is one line that names it and the way out."""

import errno
import fcntl
import os

import pytest
from datasets import Dataset, config

from effssl.data import _cache_errors as cache_errors
from effssl.data import load_source


def parquet(tmp_path, image_folder):
    files = sorted(image_folder.rglob("*.png"))
    cells = [{"bytes": file.read_bytes(), "path": None} for file in files]
    Dataset.from_dict({"image": cells}).to_parquet(tmp_path / "images.parquet")
    return tmp_path / "images.parquet"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def check(info, cache, number):
    said = str(info.value)
    assert f"in the cache {cache}" in said
    assert f": {os.strerror(number)}; set HF_HOME to a folder" in said
    assert "images.parquet" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_locks_that_cannot_be_had(tmp_path, image_folder, cache, monkeypatch, number):
    file = parquet(tmp_path, image_folder)

    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    if number == errno.ENOSYS:  # for which filelock has another way, in its newer versions
        monkeypatch.setattr("datasets.builder.FileLock", not_implemented)
    with pytest.raises(OSError) as info:
        load_source(str(file))
    check(info, cache, number)


def not_implemented(*arguments, **more):
    raise NotImplementedError("FileSystem does not appear to support flock")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("when", ["locked", "written"])
def test_a_cache_that_cannot_be_written(tmp_path, image_folder, cache, monkeypatch, number, when):
    file = parquet(tmp_path, image_folder)

    def refused(*arguments, **more):
        raise OSError(number, os.strerror(number), str(cache / "parquet" / "x.arrow"))

    owner = "datasets.builder.FileLock" if when == "locked" else "datasets.builder.ArrowWriter"
    monkeypatch.setattr(owner, refused)
    with pytest.raises(OSError) as info:
        load_source(str(file))
    check(info, cache, number)


def test_images_that_may_not_be_read_are_not_taken_for_the_cache(tmp_path, cache):
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "photos" / "a.png"))
    assert cache_errors.cache_error(error, "photos") is None
    assert (
        cache_errors.cache_error(FileNotFoundError(2, "none", str(cache / "x")), "photos") is None
    )
    assert cache_errors.cache_error(ValueError("x"), "photos") is None
    assert cache_errors.cache_error(NotImplementedError("MapArray"), "photos") is None

"""Source.digest: what the images are decides, and not where they, their rows and caches lie."""

import os
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from datasets import (
    Array3D,
    Dataset,
    Features,
    List,
    Value,
    concatenate_datasets,
    config,
    load_from_disk,
)
from datasets import Image as ImageFeature
from layouts import noise, png, rows, write_tar
from PIL import Image

from effssl.data import _digest as digest
from effssl.data import _listing as listing
from effssl.data import load_source

IMAGES = [png(image) for image in noise(12, 3, 8, 9)]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A `datasets` cache, and digests, of this test's own."""
    monkeypatch.setattr(digest, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "home" / "datasets"))
    return tmp_path / "home"


def table(images=IMAGES):
    cells = [{"bytes": image, "path": None} for image in images]
    return Dataset.from_dict({"image": cells}).cast(rows().select_columns("image").features)


def make(kind, path):
    """A data set of that kind, and the file whose change in place changes an image."""
    path.mkdir()
    if kind == "parquet":
        table().to_parquet(path / "x.parquet")
    elif kind == "webdataset":
        write_tar(path / "x.tar", IMAGES, [0] * len(IMAGES))
    elif kind == "save_to_disk":
        table().save_to_disk(path)
        return path / "data-00000-of-00001.arrow"
    elif kind == "npy":
        for i, image in enumerate(noise(12, 3, 8, 9)):
            np.save(path / f"{i:02}.npy", image)
    else:
        for i, image in enumerate(IMAGES):
            (path / f"{i:02}.png").write_bytes(image)
    if kind == "zip":
        with zipfile.ZipFile(path / "x.zip", "w") as archive:  # as they are, not compressed
            for image in sorted(path.glob("*.png")):
                archive.write(image, image.name)
                image.unlink()
    return sorted(path.iterdir())[-1]


KINDS = ["parquet", "webdataset", "save_to_disk", "npy", "imagefolder", "zip"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cleaned_cache_and_a_copied_folder_are_the_same_images(tmp_path, home, kind):
    make(kind, tmp_path / "x")
    found = load_source(str(tmp_path / "x")).digest()
    shutil.rmtree(home, ignore_errors=True)
    assert load_source(str(tmp_path / "x")).digest() == found
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(tmp_path / "x", tmp_path / "elsewhere" / "y")
    assert load_source(str(tmp_path / "elsewhere" / "y")).digest() == found


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_changed_in_place_is_other_images(tmp_path, kind):
    file = make(kind, tmp_path / "x")
    found = load_source(str(tmp_path / "x")).digest()
    content, size = file.read_bytes(), file.stat().st_size
    some = content[-30:-20] if kind == "npy" else IMAGES[-1][-30:-20]
    assert content.count(some) == 1
    file.write_bytes(content.replace(some, bytes(10)))
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))  # a coarse clock may not have ticked
    assert file.stat().st_size == size
    assert load_source(str(tmp_path / "x")).digest() != found


def test_the_same_files_have_one_digest_in_whatever_they_are_stored(tmp_path):
    kinds = ["parquet", "webdataset", "save_to_disk"]
    for kind in kinds:
        make(kind, tmp_path / kind)
    assert len({load_source(str(tmp_path / kind)).digest() for kind in kinds}) == 1


def test_rows_count_in_their_order_and_by_no_other_way_to_them(tmp_path):
    make("parquet", tmp_path / "x")
    source = load_source(str(tmp_path / "x"))
    data = source.dataset

    def of(dataset):
        return replace(source, dataset=dataset).digest()

    backwards = data.select(range(11, -1, -1))
    same = [
        data,
        backwards.select(range(11, -1, -1)),
        backwards.select(range(11, -1, -1)).flatten_indices(),
        concatenate_datasets([data.select(range(5)), data.select(range(5, 12))]),
    ]
    others = [backwards, data.select(range(11)), data.select(range(1, 12)), data.select([0] * 12)]
    assert len({of(dataset) for dataset in same}) == 1
    assert len({of(dataset) for dataset in [data, *others]}) == 5
    assert load_source(str(tmp_path / "x"), "train[:6]").digest() == of(data.select(range(6)))


@pytest.mark.parametrize("kind", [Array3D((3, 4, 6), "uint16"), List(List(List(Value("uint16"))))])
def test_arrays_count_with_their_shape_and_type(tmp_path, kind):
    images = noise(5, 3, 4, 6, dtype=np.uint16)

    def of(kind, images, name):
        Dataset.from_dict({"x": images}, features=Features({"x": kind})).save_to_disk(
            tmp_path / name
        )
        return load_source(str(tmp_path / name), image_column="x").digest()

    found = of(kind, images, "a")
    assert of(kind, [image.copy() for image in images], "b") == found
    assert of(List(List(List(Value("int32")))), images, "c") != found
    assert of(Array3D((3, 6, 4), "uint16"), [x.reshape(3, 6, 4) for x in images], "d") != found
    if isinstance(kind, List):  # and of unequal sizes, where no value is left out of a large one
        large = [np.ones((3, 40, 40), np.uint16), *images]
        first = of(kind, large, "e")
        large[0][1, 20, 20] = 7
        assert of(kind, large, "f") != first


def test_what_was_read_once_is_known(tmp_path, home, monkeypatch):
    make("parquet", tmp_path / "x")
    source = load_source(str(tmp_path / "x"))
    assert source.digest(read=False) is None
    found = source.digest()

    def read_again(*arguments):
        raise AssertionError("read a second time")

    monkeypatch.setattr(digest, "_digest", read_again)
    assert source.digest() == source.digest(read=False) == found
    assert load_source(str(tmp_path / "x")).digest() == found
    for file in (home / "effssl" / "digests").iterdir():
        file.write_text("torn")
    with pytest.raises(AssertionError, match="read a second time"):
        source.digest()


def test_files_are_looked_at_each_time(image_folder, home):
    assert load_source(str(image_folder)).digest(read=False) is not None
    assert not (home / "effssl").exists()


def test_a_home_that_cannot_be_written_is_done_without(tmp_path, home, monkeypatch):
    make("parquet", tmp_path / "x")
    source = load_source(str(tmp_path / "x"))
    found = source.digest()
    (tmp_path / "file").touch()
    monkeypatch.setattr(digest, "HF_HOME", str(tmp_path / "file"))
    assert source.digest() == found


def test_exchanged_files_of_save_to_disk_are_seen_though_their_fingerprint_stays(tmp_path):
    make("save_to_disk", tmp_path / "x")
    first = load_source(str(tmp_path / "x"))
    found = first.digest()
    table(IMAGES[::-1]).save_to_disk(tmp_path / "y")
    arrow = "data-00000-of-00001.arrow"
    shutil.copy(tmp_path / "y" / arrow, tmp_path / "x" / arrow)
    again = load_source(str(tmp_path / "x"))
    assert again.dataset._fingerprint == first.dataset._fingerprint
    assert again.digest() != found


def paths_in(folder, value):
    """Files of one size, whatever they hold, by name."""
    folder.mkdir(exist_ok=True, parents=True)
    for name in ("a.bmp", "b.bmp"):
        Image.new("L", (8, 8), value).save(folder / name)
    return [str(folder / name) for name in ("a.bmp", "b.bmp")]


def as_struct(paths):
    return Dataset.from_dict({"image": [{"bytes": None, "path": path} for path in paths]})


def as_undecoded(paths):
    feature = Features({"image": ImageFeature(decode=False)})
    return Dataset.from_dict({"image": paths}, features=feature)


def as_mixed(paths):
    cells = [{"bytes": IMAGES[0], "path": None}, *({"bytes": None, "path": p} for p in paths)]
    return Dataset.from_dict({"image": cells})


@pytest.mark.parametrize("in_a_cache", [False, True], ids=["outside", "in a cache"])
@pytest.mark.parametrize("saved", [False, True], ids=["in memory", "on disk"])
@pytest.mark.parametrize("make_rows", [as_struct, as_undecoded, as_mixed])
def test_files_that_change_behind_the_paths_of_a_data_set_are_other_images(
    tmp_path, home, make_rows, saved, in_a_cache
):
    folder = (home / "datasets" if in_a_cache else tmp_path) / "photos"
    dataset = make_rows(paths_in(folder, 10))
    if saved:
        # without a copy of the files in it, which save_to_disk makes of a column of type Image
        dataset.cast(Features({"image": {"bytes": Value("binary"), "path": Value("string")}}))
        dataset.save_to_disk(tmp_path / "x")

    def of():
        rows = load_from_disk(tmp_path / "x") if saved else dataset
        rows = rows.cast_column("image", ImageFeature(decode=False))
        return digest.digest_images(rows, "image")

    found = of()
    assert of() == found
    paths_in(folder, 99)
    for file in folder.iterdir():
        os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))
    holds_a_copy = saved and make_rows is as_undecoded
    assert (of() == found) == holds_a_copy


def test_a_file_of_save_to_disk_that_is_given_its_old_time_is_read_again(tmp_path):
    file = make("save_to_disk", tmp_path / "x")
    found, before = load_source(str(tmp_path / "x")).digest(), file.stat()
    content = file.read_bytes()
    file.write_bytes(content.replace(IMAGES[-1][-30:-20], bytes(10)))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert load_source(str(tmp_path / "x")).digest() != found


def test_a_data_set_that_is_saved_anew_in_the_same_folder_is_other_images(tmp_path):
    found = set()
    for images in (IMAGES, IMAGES[::-1]):
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        table(images).save_to_disk(tmp_path / "x")
        found.add(load_source(str(tmp_path / "x")).digest())
    assert len(found) == 2


def test_one_look_at_each_file_lists_names_and_sizes_without_reading(tmp_path, monkeypatch):
    paths = paths_in(tmp_path / "one", 10)
    rows = as_undecoded(paths)
    looked, look = [], listing.identity
    with monkeypatch.context() as patch:
        patch.setattr(listing, "identity", lambda path: looked.append(path) or look(path))
        patch.setattr(digest, "_digest", None)  # which reads
        found = listing.list_images(rows, "image")
        assert digest.digest_listed(rows, "image", found, read=True) == found.files
    assert looked == paths and found.images == 2 and found.by_name
    moved = listing.list_images(as_undecoded(paths_in(tmp_path / "two", 99)), "image")
    assert (moved.names == found.names) and moved.files != found.files  # times count there only
    Image.new("L", (9, 9)).save(paths[1])
    assert listing.list_images(rows, "image").names != found.names


def test_the_sizes_of_content_are_those_of_rows_in_any_order():
    data = table([image + bytes(i) for i, image in enumerate(IMAGES)])
    names = listing.list_images(data, "image").names
    backwards = data.select(range(11, -1, -1))
    assert listing.list_images(backwards, "image").names != names
    assert listing.list_images(backwards.select(range(11, -1, -1)), "image").names == names
    assert listing.list_images(data.select(range(11)), "image").names != names


@pytest.mark.parametrize("kind", ["imagefolder", "zip"])
def test_files_in_a_cache_count_by_their_content(tmp_path, monkeypatch, kind):
    file = make(kind, tmp_path / "x")
    monkeypatch.setattr(listing, "HF_HUB_CACHE", str(tmp_path))
    source = load_source(str(tmp_path / "x"))
    assert source.digest(read=False) is None
    found = source.digest()
    os.utime(file, ns=(1, 1))  # downloaded again
    assert load_source(str(tmp_path / "x")).digest() == found
    monkeypatch.setattr(listing, "HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(digest, "HF_HOME", str(tmp_path / "other"))
    assert load_source(str(tmp_path / "x")).digest() != found


def test_broken_and_missing_images_have_a_digest(tmp_path):
    for i in range(3):
        Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / f"{i}.png")
    source = load_source(str(tmp_path))
    found = source.digest()
    (tmp_path / "1.png").unlink()
    assert source.digest() != found
    cells = Dataset.from_dict({"image": [{"bytes": b"x", "path": None}, None]})
    assert replace(source, dataset=cells).digest()


def test_a_stream_has_none(image_folder):
    with pytest.raises(ValueError, match="a digest needs a map-style source"):
        load_source(str(image_folder), streaming=True).digest()

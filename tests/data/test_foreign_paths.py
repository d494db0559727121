"""Paths in data sets from the Hub name files of that data set and no others."""

import io
import os

import numpy as np
import pyarrow.parquet
import pytest
from datasets import Dataset, config
from datasets import Image as Images
from PIL import Image

from effssl.data import BrokenImage, _confined, _readers, decode_image, load_source
from effssl.data._confined import is_own, own_folders
from effssl.data._loader import decode_or_broken


def png(value):
    file = io.BytesIO()
    Image.new("L", (8, 8), value).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The caches of the Hub and of datasets."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(config, "DOWNLOADED_DATASETS_PATH", tmp_path / "downloads")
    monkeypatch.setattr(config, "EXTRACTED_DATASETS_PATH", tmp_path / "downloads" / "extracted")
    _confined._real.cache_clear()
    return tmp_path


def make(path, value=7):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(value))
    return str(path)


def hub(monkeypatch, folder, cells):
    """Make a data set that org/data is loaded from, wherever it is asked for."""
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    table = pyarrow.table({"image": pyarrow.array(cells, kind), "label": range(len(cells))})
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, folder / "images.parquet")
    load = _readers._load

    def of_hub(name, split, streaming, **where):
        found = load(str(folder), split, streaming)
        return found._replace(rows=found.rows.cast_column("image", Images(decode=False)))

    monkeypatch.setattr(_readers, "_load", of_hub)
    return load_source


def outcomes(source):
    rows = list(source.dataset)
    decoded = [decode_or_broken(row[source.image_column], "row", source, 32) for row in rows]
    return [str(x) if isinstance(x, BrokenImage) else int(x[0, 0, 0]) for x in decoded]


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_the_hub_may_name_the_files_of_their_data_set_alone(
    cache, tmp_path, monkeypatch, streaming
):
    snapshot = cache / "hub" / "datasets--org--data" / "snapshots" / "abc"
    blob = make(cache / "hub" / "datasets--org--data" / "blobs" / "0123", 3)
    snapshot.mkdir(parents=True)
    (snapshot / "a.png").symlink_to(blob)
    extracted = cache / "downloads" / "extracted" / "77"
    secret = make(tmp_path / "home" / "secret.png")
    make(extracted / "b.png", 4)
    (extracted / "link.png").symlink_to(secret)
    (extracted / "folder").symlink_to(tmp_path / "home")
    own = [str(snapshot / "a.png"), str(extracted / "b.png")]
    others = [
        secret,
        make(cache / "hub" / "datasets--org--private" / "blobs" / "1"),
        make(cache / "hub" / "datasets--org--data2" / "1.png"),
        f"{extracted}/../../../home/secret.png",
        str(extracted / "link.png"),
        str(extracted / "folder" / "secret.png"),
        "/dev/zero",
        "secret.png",
        f"file://{secret}",
        f"local://{secret}",
        f"zip://a.png::file://{secret}",
        f"local://{secret}::{extracted}/b.png",
        f"zip+file://{tmp_path}/x.zip#a.png",
        "https://example.org/a.png",
        "hf://datasets/org/private@main/a.png",
        "\x1b[31mred\x1b[0m",
    ]
    cells = [{"bytes": None, "path": path} for path in own + others]
    # what has content keeps it, whatever its path says
    cells += [{"bytes": png(9), "path": "/dev/zero"}, {"bytes": png(8), "path": None}]
    monkeypatch.chdir(tmp_path / "home")
    load = hub(monkeypatch, tmp_path / "made", cells)
    source = load("org/data", streaming=streaming)
    found = outcomes(source)
    assert found[:2] == [3, 4] and found[-2:] == [9, 8]
    assert all("names a file outside of the data set" in str(said) for said in found[2:-2])
    assert found[2].startswith(secret) and "red" in found[-3] and "\x1b" not in found[-3]
    if not streaming:
        assert len(source.digest()) == 32 and source.paths()[2] == secret
        assert outcomes(load("org/data", "train[3:]"))[-2:] == [9, 8]
        assert source.labels() == list(range(len(cells)))


def test_a_data_set_without_such_rows_stays_the_one_that_it_is(cache, tmp_path, monkeypatch):
    cells = [{"bytes": png(i), "path": f"{i}.png"} for i in range(4)] + [None]
    source = hub(monkeypatch, tmp_path / "made", cells)("org/data", "train[1:]")
    local = load_source(str(tmp_path / "made"), "train[1:]")
    assert source.dataset._fingerprint == local.dataset._fingerprint
    assert outcomes(source)[:3] == [1, 2, 3] and "the cell is empty" in outcomes(source)[3]


def test_local_data_sets_may_name_any_regular_file(tmp_path):
    elsewhere = make(tmp_path / "home" / "a.png", 5)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.csv").write_text(f"path\n{elsewhere}\n../home/a.png\n/dev/zero\n")
    found = outcomes(load_source(str(tmp_path / "rows" / "rows.csv")))
    assert found[:2] == [5, 5] and "is not a regular file" in found[2]


@pytest.mark.parametrize(
    "cell, own",
    [
        ("hf://datasets/org/data@abc/x/a.png", True),
        ("zip://x/a.png::hf://datasets/org/data@abc/x.zip", True),
        ("zip://a.png::tar://x.zip::hf://datasets/org/data@abc/x.tar", True),
        ("hf://datasets/org/data2@abc/a.png", False),
        ("hf://datasets/org/data@abc/../../private/a.png", False),
        ("simplecache://::hf://datasets/org/data@abc/a.png", False),
        ("/etc/passwd::hf://datasets/org/data@abc/a.png", False),
        ("zip://a.png::https://example.org/x.zip", False),
        ("", False),
        ("::", False),
    ],
)
def test_addresses_are_those_of_the_data_set(cache, cell, own):
    assert is_own(cell, own_folders("org/data")) == own


def test_arrays_have_no_paths():
    values = np.zeros((3, 4, 4), np.uint8).tolist()
    table = pyarrow.table({"pixels": pyarrow.array([values, values])})
    made = Dataset(table)
    assert _confined.confined(made, "pixels", ()) is made


def test_what_a_link_is_called_says_nothing(cache):
    target = make(cache / "home" / "a.png")
    path = cache / "downloads" / "extracted" / "1" / "a.png"
    path.parent.mkdir(parents=True)
    os.symlink(target, path)
    assert not is_own(str(path), own_folders("org/data"))


FILES = "configs: [{config_name: default, data_files: [{split: train, path: ../secret/*.parquet}]}]"


@pytest.mark.parametrize("text", [FILES, "x: !!python/object:os.system {}", "a: [", "- 5"])
def test_a_readme_beside_parquet_files_is_not_read(tmp_path, text):
    for name, value in (("given", 1), ("secret", 2)):
        folder = tmp_path / name
        folder.mkdir()
        rows = Dataset.from_dict({"image": [Image.new("L", (4, 4), value)]})
        rows.to_parquet(folder / "a.parquet")
    (tmp_path / "given" / "README.md").write_text(f"---\n{text}\n---\n")
    source = load_source(str(tmp_path / "given"), in_chans=1)
    assert [int(decode_image(row["image"], 1).max()) for row in source.dataset] == [1]


def test_parquet_files_are_split_by_the_words_that_their_names_begin_with(tmp_path):
    rows = Dataset.from_dict({"image": [Image.new("L", (4, 4), i) for i in range(6)]})
    (tmp_path / "data").mkdir()
    rows.select(range(4)).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    rows.select(range(4, 6)).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    assert load_source(str(tmp_path), in_chans=1).num_images == 4
    assert load_source(str(tmp_path), "test", in_chans=1).num_images == 2

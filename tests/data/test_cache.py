"""The decoded cache: the same pixels, whole or not there, shared, within its budget."""

import errno
import fcntl
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from effssl.data import BrokenImage, _cached_images, decode_image, load_source
from effssl.data import _cache as cache
from effssl.data._cache import cache_images
from effssl.data._cached_images import CachedImages
from effssl.data._pixel_check import digest_of_index


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "effssl" / "decoded"


def build(source, short_side=100, max_bytes=1e9, workers=0):
    return cache_images(source, short_side, max_bytes=max_bytes, workers=workers)


@pytest.mark.parametrize("in_chans", [1, 3])
def test_cached_images_of_mixed_sizes_are_the_decoded_ones(image_folder, in_chans):
    source = load_source(str(image_folder), in_chans=in_chans)
    for short_side in (100, 16):
        images = build(source, short_side)
        assert len(images) == 24
        for row in range(24):
            expected = decode_image(source.dataset[row]["image"], in_chans, short_side)
            assert np.array_equal(images.__getitems__([row])[0], expected)


def test_workers_write_the_same_bytes(cache_home):
    source = load_source(in_chans=1, split="test")
    pixels = []
    for workers in (0, 1):
        images = build(source, workers=workers)
        pixels.append(images.pixels.clone())
        for folder in cache_home.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)
    assert len(pixels[0]) == 2000 * 28 * 28 and torch.equal(*pixels)


def test_a_later_run_opens_what_an_earlier_one_decoded(image_folder, cache_home, monkeypatch):
    build(load_source(str(image_folder)))

    def decoded_again(*arguments):
        raise AssertionError("decoded a second time")

    monkeypatch.setattr(cache, "_decode", decoded_again)
    assert len(build(load_source(str(image_folder)))) == 24
    for other in (
        {"short_side": 16},
        {"source": load_source(str(image_folder), in_chans=1)},
        {"source": load_source(str(image_folder), "train[:12]")},
    ):
        with pytest.raises(AssertionError, match="second time"):
            build(**({"source": load_source(str(image_folder))} | other))


def test_a_folder_whose_files_change_is_decoded_anew(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("L", (8, 8), 10).save(folder / "a.png")
    Image.new("L", (8, 8), 20).save(folder / "b.png")
    first = build(load_source(str(folder), in_chans=1)).__getitems__([0])[0]
    time.sleep(0.01)
    Image.new("L", (8, 8), 99).save(folder / "a.png")
    second = build(load_source(str(folder), in_chans=1)).__getitems__([0])[0]
    assert (int(first[0, 0, 0]), int(second[0, 0, 0])) == (10, 99)


def test_images_over_the_budget_are_not_cached(image_folder, cache_home, caplog):
    source = load_source(str(image_folder))
    with caplog.at_level("INFO", logger="effssl"):
        assert build(source, max_bytes=24 * 3 * 20 * 20) is None
    assert "decoding in every epoch" in caplog.text
    assert not [path for path in cache_home.iterdir() if path.is_dir()]
    assert build(source, max_bytes=24 * 3 * 24 * 30) is not None


def test_the_estimate_follows_the_shrinking(image_folder):
    source = load_source(str(image_folder))
    images = build(source, 12)
    assert cache._estimate(source, 12) == pytest.approx(len(images.pixels), rel=0.05)


def test_without_a_budget_nothing_is_looked_at_or_written(image_folder, cache_home):
    assert build(load_source(str(image_folder)), max_bytes=0) is None
    assert not cache_home.exists()


def test_a_cache_that_cannot_be_written_is_done_without(
    image_folder, tmp_path, monkeypatch, caplog
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "file"))
    assert build(load_source(str(image_folder))) is None
    assert "decoding in every epoch: no cache in" in caplog.text


def without_locks(monkeypatch, number):
    """File locks as a network file system without them has them."""

    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def the_warning(caplog):
    (record,) = [r for r in caplog.records if r.levelname == "WARNING"]
    return record.getMessage()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_done_without_and_named_once(
    image_folder, cache_home, monkeypatch, caplog, number
):
    source = load_source(str(image_folder))
    without_locks(monkeypatch, number)
    assert build(source) is None
    said = the_warning(caplog)
    assert str(cache_home) in said and os.strerror(number) in said and "set HF_HOME" in said


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_cache_that_is_there_is_opened_where_nothing_can_be_written(
    image_folder, cache_home, monkeypatch, caplog, number
):
    source = load_source(str(image_folder))
    expected = build(source).pixels.clone()

    def refused(path, *arguments, **more):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refused)
    monkeypatch.setattr(os, "utime", refused)
    assert torch.equal(build(source).pixels, expected)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    assert build(source, 12) is None  # another size is not there
    said = the_warning(caplog)
    assert str(cache_home) in said and os.strerror(number) in said and "set HF_HOME" in said


def test_a_cache_says_what_it_is_of(image_folder, cache_home):
    source = load_source(str(image_folder))
    made = cache_images(source, 16, max_bytes=1e9, workers=0, name="photos").folder
    assert json.loads((made / "about.json").read_text()) == {
        **{"format": cache.FORMAT, "dataset": "photos", "images": 24},
        **{"in_chans": 3, "short_side": 16},
    }
    (made / "about.json").unlink()  # as in those of earlier versions
    assert len(build(source, 16)) == 24


def test_images_that_the_caller_has_looked_at_are_not_looked_at_again(image_folder, monkeypatch):
    source = load_source(str(image_folder))
    digest, made = source.digest(), build(source).folder
    monkeypatch.setattr(type(source), "digest", None)
    opened = cache_images(source, 100, max_bytes=1e9, workers=0, digest=digest)
    assert opened.folder == made


def test_a_torn_cache_is_made_anew(image_folder):
    source = load_source(str(image_folder))
    expected = build(source).pixels.clone()
    for name in ("pixels.bin", "index.safetensors"):
        file = build(source).folder / name
        file.write_bytes(file.read_bytes()[:100])
        assert torch.equal(build(source).pixels, expected)


def test_a_broken_image_is_kept_in_its_row(tmp_path):
    folder = broken_folder(tmp_path, good=120, broken=1)
    images = build(load_source(str(folder)))
    assert list(images.broken) == [0]
    first, second = images.__getitems__([0, 1])
    assert isinstance(first, BrokenImage) and "000.png" in str(first)
    assert second.shape == (3, 8, 8)


def test_too_many_broken_images_leave_no_cache(tmp_path, cache_home):
    source = load_source(str(broken_folder(tmp_path, good=120, broken=3)))
    with pytest.raises(ValueError, match="3 of the 123 images .* the 2 that max_broken 0.01 all"):
        build(source)
    assert not [path for path in cache_home.iterdir() if path.is_dir()]
    assert len(cache_images(source, 100, max_bytes=1e9, workers=0, max_broken=0.02).broken) == 3
    with pytest.raises(ValueError, match="3 of the 123 images"):  # of a cache that is there, too
        build(source)


def broken_folder(tmp_path, good, broken):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(good + broken):
        path = folder / f"{i:03}.png"
        path.write_text("no image") if i < broken else Image.new("RGB", (8, 8)).save(path)
    return folder


def test_a_worker_that_is_sent_the_cache_maps_the_file_itself(image_folder):
    images = build(load_source(str(image_folder)))
    sent = pickle.dumps(images)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent).pixels, images.pixels)


BUILD = """
import sys
from effssl.data import _cache as cache, load_source
source = load_source(in_chans=1)
images = cache.cache_images(source, 28, max_bytes=1e9, workers=int(sys.argv[1]))
print(len(images), int(images.pixels.sum()))
"""


def test_a_killed_build_leaves_nothing_that_a_later_run_takes_for_whole(tmp_path):
    environment = os.environ | {"HF_HOME": str(tmp_path / "other"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BUILD, "1"]
    process = subprocess.Popen(command, env=environment)
    folder = tmp_path / "other" / "effssl" / "decoded"
    while (
        not list(folder.glob("*.partial/pixels.bin"))
        or not next(folder.glob("*.partial/pixels.bin")).stat().st_size
    ):
        assert process.poll() is None, "the build ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(folder.glob("*.partial")) and not list(folder.glob("*[!k]/index.safetensors"))

    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # and two runs at once wait for one of them
    said = {process.communicate(timeout=200)[0].split()[0] for process in both}
    assert said == {"10000"} and not list(folder.glob("*.partial"))
    (whole,) = [path for path in folder.iterdir() if path.is_dir()]
    assert len(CachedImages(whole).pixels) == 10_000 * 28 * 28


def test_a_batch_of_the_cache_is_its_images_where_they_lie(tmp_path):
    for i in range(200):
        Image.new("RGB", (5 + i % 3, 4), (i, 0, 0)).save(tmp_path / f"{i:03}.png")
    (tmp_path / "007.png").write_bytes(b"no image")
    images = cache.cache_images(load_source(str(tmp_path)), 12, max_bytes=1e9, workers=0)
    rows = [3, 199, 7, 0]
    batch, expected = images.batch(rows), images.__getitems__(rows)
    assert batch.pixels.data_ptr() == images.pixels.data_ptr()
    assert batch.rows.tolist() == [0, 1, 3] and batch.broken == [str(expected[2])]
    for place, row in enumerate(batch.rows.tolist()):
        assert torch.equal(batch.image(place), expected[row])
    assert images.batch([7]).sizes.shape == (0, 2)


@pytest.mark.gpu
def test_a_cache_that_fits_is_kept_on_the_device(image_folder, monkeypatch):
    images = build(load_source(str(image_folder)))
    expected = images.__getitems__([3])[0].clone()
    with monkeypatch.context() as patch:
        patch.setattr(_cached_images, "_GPU_SHARE", 0)
        assert not images.to_device(torch.device("cuda"))
    assert images.to_device(torch.device("cuda"))
    assert torch.equal(images.__getitems__([3])[0].cpu(), expected)


# images of one color


def clip_art(folder, count, hidden):
    """Black drawings on nothing, which are black all over where transparency is dropped."""
    folder.mkdir()
    for i in range(count):
        rgba = np.zeros((40, 48, 4), np.uint8)
        rgba[8:20, 5 : 20 + i % 20, 3] = 0 if i in hidden else 255
        Image.fromarray(rgba).save(folder / f"{i:03}.png")
    return folder


def said_of_colors(caplog):
    return [(r.levelname, r.getMessage()) for r in caplog.records if "constant" in r.getMessage()]


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_one_color_are_counted_named_and_kept_with_the_cache(tmp_path, caplog, workers):
    caplog.set_level("INFO")
    folder = clip_art(tmp_path / "art", 700, {3, 5, 64, 650, 699, 130, 131, 132})
    (folder / "004.png").write_bytes(b"no image")
    source = load_source(str(folder))
    images = build(source, workers=workers)
    assert images.constant.tolist() == [3, 5, 64, 130, 131, 132, 650, 699]
    said = [
        (
            "WARNING",
            "8 of 699 images (1.1 %) are one constant color, from which nothing can be learned: "
            "003.png (row 3), 005.png (row 5), 064.png (row 64), ...; where transparency hides "
            "what they show, try another --background",
        )
    ]
    assert said_of_colors(caplog) == said
    caplog.clear()
    assert build(source).constant.tolist() == images.constant.tolist()
    assert said_of_colors(caplog) == []  # once in a process
    cache._SAID.clear()
    build(source)
    assert said_of_colors(caplog) == said


def test_a_few_images_of_one_color_are_no_warning(tmp_path, caplog):
    caplog.set_level("INFO")
    build(load_source(str(clip_art(tmp_path / "art", 100, {7}))))
    line = "1 of 100 images is one constant color: 007.png (row 7)"
    assert said_of_colors(caplog) == [("INFO", line)]
    caplog.clear()
    build(load_source(str(clip_art(tmp_path / "none", 20, {}))))
    assert said_of_colors(caplog) == []


def test_another_background_has_another_cache(tmp_path):
    folder = str(clip_art(tmp_path / "art", 20, {}))
    by = {name: build(load_source(folder, background=name)) for name in ("white", "black", "drop")}
    assert [len(by[name].constant) for name in by] == [0, 20, 20]
    assert len({images.folder for images in by.values()}) == 3
    assert build(load_source(folder)).folder == by["white"].folder
    assert build(load_source(folder, background="#FFFFFF")).folder == by["white"].folder


def test_rows_of_one_color_that_cannot_be_are_a_damaged_cache(tmp_path, caplog):
    source = load_source(str(clip_art(tmp_path / "art", 20, {3})))
    folder = build(source).folder
    index = folder / "index.safetensors"
    with safe_open(index, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    for rows in ([20], [-1], [4, 3]):
        tensors["constant"] = torch.tensor(rows)
        metadata["digest"] = digest_of_index(tensors, metadata)
        save_file(tensors, index, metadata)
        with pytest.raises(ValueError, match="its images of one color are not"):
            CachedImages(folder)
    assert build(source).constant.tolist() == [3] and "are damaged" in caplog.text

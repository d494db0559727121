"""Caches that others planted, changed or made: the same pixels, or a word of it."""

import json
import logging
import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from effssl.cli import main
from effssl.data import _cache as cache
from effssl.data import _cache_list, _pixel_check, load_source
from effssl.data import _digest as digest
from effssl.data._cache import cache_images
from effssl.data._cached_images import CachedImages
from effssl.data._pixel_check import BlockDigests, check_pixels


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for module in (cache, digest, _cache_list):
        monkeypatch.setattr(module, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "effssl"


@pytest.fixture
def source(image_folder):
    return load_source(str(image_folder))


def build(source):
    return cache_images(source, 16, max_bytes=1e9, workers=0, name="photos")


def read_index(folder):
    with safe_open(folder / "index.safetensors", "pt") as index:
        return {name: index.get_tensor(name) for name in index.keys()}, index.metadata()  # noqa: SIM118


def write_index(folder, tensors, metadata):
    (folder / "index.safetensors").unlink()
    save_file(tensors, folder / "index.safetensors", metadata)


def sizes(change):
    def tamper(folder):
        tensors, metadata = read_index(folder)
        tensors["sizes"] = change(tensors["sizes"].clone()).contiguous()
        write_index(folder, tensors, metadata)

    return tamper


def metadata(**changes):
    def tamper(folder):
        tensors, known = read_index(folder)
        known = {name: value for name, value in (known | changes).items() if value is not None}
        write_index(folder, tensors, known)

    return tamper


def pixels(change):
    def tamper(folder):
        content = bytearray((folder / "pixels.bin").read_bytes())
        (folder / "pixels.bin").unlink()
        (folder / "pixels.bin").write_bytes(change(content))

    return tamper


def flipped(content):
    content[len(content) // 2] ^= 1
    return content


def one_size(row, side, value):
    def change(found):
        found[row, side] = value
        return found

    return change


def without(name):
    def tamper(folder):
        tensors, known = read_index(folder)
        write_index(folder, {k: v for k, v in tensors.items() if k != name}, known)

    return tamper


def replaced(name, make):
    def tamper(folder):
        (folder / name).unlink()
        make(folder / name)

    return tamper


TAMPERED = {
    "shorter": pixels(lambda content: content[:-1]),
    "longer": pixels(lambda content: content + bytes(1)),
    "empty": pixels(lambda content: b""),
    "one bit": pixels(flipped),
    "a pipe": replaced("pixels.bin", os.mkfifo),
    "an index that is a pipe": replaced("index.safetensors", os.mkfifo),
    "a folder": replaced("pixels.bin", os.mkdir),
    "a device": replaced("pixels.bin", lambda path: path.symlink_to("/dev/zero")),
    "negative": sizes(one_size(3, 0, -4)),
    "two negative": sizes(lambda s: torch.cat([s[:1] * -1, s[1:]])),
    "absurd": sizes(lambda s: torch.full_like(s, 2**31 - 1)),
    "absurd once": sizes(one_size(5, 1, 2**31 - 1)),
    "swapped": sizes(lambda s: s.flip(0)),
    "another shape": sizes(lambda s: s.flatten()),
    "another type": sizes(lambda s: s.double()),
    "fewer": sizes(lambda s: s[:-1]),
    "none": sizes(lambda s: s[:0]),
    "no sizes": without("sizes"),
    "no channels": metadata(channels=None),
    "no number of channels": metadata(channels="three"),
    "no channel": metadata(channels="0"),
    "many channels": metadata(channels="9" * 5000),
    "other channels": metadata(channels="1"),
    "no broken": metadata(broken=None),
    "broken out of range": metadata(broken='{"99": "why"}'),
    "broken with pixels": metadata(broken='{"3": "why"}'),
    "broken twice": metadata(broken='{"03": "why", "3": "why"}'),
    "broken garbage": metadata(broken='{"' + "[" * 9999),
    "broken list": metadata(broken="[1]"),
    "broken without a text": metadata(broken='{"3": [1]}'),
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED.keys())
def test_a_changed_cache_is_decoded_anew_and_named(source, caplog, tamper):
    images = build(source)
    expected, folder = images.pixels.clone(), images.folder
    del images
    tamper(folder)
    caplog.clear()
    again = build(source)
    assert torch.equal(again.pixels, expected) and again.folder == folder and not again.broken
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert f"the decoded images in {folder} are damaged, and decoded anew: " in said
    assert said.isprintable()


def test_caches_of_earlier_versions_without_digests_are_opened(source, caplog):
    images = build(source)
    expected, folder = images.pixels.clone(), images.folder
    without("digests")(folder)
    inode = (folder / "pixels.bin").stat().st_ino
    assert torch.equal(build(source).pixels, expected)
    assert (folder / "pixels.bin").stat().st_ino == inode
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


@pytest.mark.parametrize("parts", [[7], [3, 4, 1], [4, 4], [1] * 9, [0, 9, 0], []])
def test_digests_do_not_depend_on_the_parts_that_are_written(monkeypatch, parts):
    monkeypatch.setattr(_pixel_check, "BLOCK", 4)
    content = np.arange(sum(parts), dtype=np.uint8)
    digests, start = BlockDigests(), 0
    for length in parts:
        digests.update(content[start : start + length])
        start += length
    known = digests.tensor().numpy()
    assert len(known) == -(-len(content) // 4)
    check_pixels(content, known) if len(content) else None
    for place in range(len(content)):
        other = content.copy()
        other[place] ^= 128
        with pytest.raises(ValueError, match=f"block {place // 4} of the pixels is not what"):
            check_pixels(other, known)


def test_of_large_files_blocks_from_all_over_are_checked(monkeypatch):
    monkeypatch.setattr(_pixel_check, "BLOCK", 4)
    monkeypatch.setattr(_pixel_check, "_MOST_CHECKED", 3)
    digests, content = BlockDigests(), np.arange(40, dtype=np.uint8)
    digests.update(content)
    for place, noticed in {0: True, 39: True, 18: True, 9: False}.items():
        other = content.copy()
        other[place] += 1
        try:
            check_pixels(other, digests.tensor().numpy())
            assert not noticed
        except ValueError:
            assert noticed


changes = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from(["set", "cut", "add"])),
    min_size=1,
    max_size=5,
)


def fuzz(source, examples, signed):
    images = build(source)
    expected, folder = images.pixels.clone(), images.folder
    rows = [images._image(row).clone() for row in range(len(images))]
    if not signed:  # as in caches of earlier versions, and as who plants one would have it
        without("digests")(folder)
    whole = (folder / "index.safetensors").read_bytes()
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=quiet)
    @given(changes)
    def run(case):
        content = bytearray(whole)
        for place, value, kind in case:
            place %= max(1, len(content))
            if kind == "set":
                content[place : place + 1] = bytes([value])
            elif kind == "cut":
                del content[place : place + value]
            else:
                content[place:place] = bytes([value])
        (folder / "index.safetensors").unlink()  # the old one is mapped
        (folder / "index.safetensors").write_bytes(content)
        try:
            found = CachedImages(folder)
        except (OSError, ValueError, SafetensorError):
            return
        assert torch.equal(found.pixels, expected) and len(found) == len(rows)
        for row, image in enumerate(rows):
            assert found._image(row).ndim == 3  # and lies within the pixels
            assert not signed or torch.equal(found._image(row), image)

    run()


@pytest.mark.parametrize("signed", [True, False])
def test_an_index_changed_at_random_is_refused_or_stays_within_the_pixels(source, signed):
    fuzz(source, 100, signed)


@pytest.mark.slow
@pytest.mark.parametrize("signed", [True, False])
def test_an_index_changed_in_thousands_of_ways_is_refused_or_stays_within(source, signed):
    fuzz(source, 2000, signed)


# a folder that several users share


@pytest.fixture
def of_another(source, monkeypatch):
    """A cache that another user made."""
    folder = build(source).folder
    lstat, other = os.lstat, lambda path: os.fspath(path).startswith(str(folder))

    def as_another(path, **more):
        found = lstat(path, **more)
        if not other(path):
            return found
        values = list(found)
        values[4] = found.st_uid + 1
        return os.stat_result(values)

    monkeypatch.setattr(cache.os, "lstat", as_another)
    return folder


def test_the_cache_of_another_user_is_opened(source, of_another):
    assert build(source).folder == of_another


def test_the_damaged_cache_of_another_user_stays_and_is_named(source, of_another, caplog):
    pixels(flipped)(of_another)
    before = {file.name: file.read_bytes() for file in of_another.iterdir()}
    assert build(source) is None
    assert {file.name: file.read_bytes() for file in of_another.iterdir()} == before
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert f"{of_another} cannot be used, and is left since another user made it" in said[-1]
    assert "decoding in every epoch" in said[-1]


def test_a_cache_that_may_not_be_read_stays_and_is_named(source, monkeypatch, caplog):
    folder = build(source).folder

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("effssl.data._cached_images.held_open", refused)
    assert build(source) is None and (folder / "pixels.bin").exists()
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert f"{folder} may not be read by this user" in said and "set HF_HOME" in said


def test_a_link_in_place_of_a_cache_is_not_followed_to_delete_what_it_leads_to(
    source, tmp_path, monkeypatch
):
    folder = build(source).folder
    shutil.rmtree(folder)
    dear = tmp_path / "dear"
    dear.mkdir()
    (dear / "mine").touch()
    for name in (folder, folder.with_name(folder.name + ".partial")):
        name.symlink_to(dear)
        assert build(source) is None
        name.unlink()
    assert os.listdir(dear) == ["mine"]


# effssl cache


@pytest.mark.parametrize(
    "about",
    [
        b"",
        b"[]",
        b'{"format": 2, "images": "many", "in_chans": [], "short_side": {}}',
        b'{"format": 2, "dataset": {"a": ["\\u001b[31m"]}, "images": true}',
        b'{"format": 2, "dataset": "\\u001b]0;x\\u0007\\n\\u202ename", "images": 1e999}',
        b"[" * 99_999,
        b'{"images": ' + b"9" * 5000 + b"}",
        b"\xff\xfe",
        bytes(200_000),
    ],
)
def test_notes_of_any_kind_are_one_line_of_the_list(source, capsys, about):
    folder = build(source).folder
    (folder / "about.json").write_bytes(about)
    main(["cache"])
    first, total = capsys.readouterr().out.splitlines()
    assert first.startswith(folder.name) and first.isprintable() and len(first) < 400
    main(["cache", "--delete-all"])
    assert not folder.exists()


def test_a_note_that_is_a_pipe_or_a_device_is_not_waited_for(source, capsys):
    folder = build(source).folder
    replaced("about.json", os.mkfifo)(folder)
    main(["cache"])
    replaced("about.json", lambda path: path.symlink_to("/dev/zero"))(folder)
    main(["cache"])
    assert capsys.readouterr().out.count("of an older format, which is not read any more") == 2


def test_deleting_follows_no_link_and_takes_nothing_that_no_cache_has(
    source, home, tmp_path, capsys
):
    folder = build(source).folder
    dear = tmp_path / "dear"
    for path in (dear / ("a" * 24), home / "decoded" / "photos", home / "archives"):
        path.mkdir(parents=True)
    (dear / ("a" * 24) / "mine.png").touch()
    (home / "decoded" / "photos" / "mine.png").touch()
    (home / "archives" / "mine.zip").touch()
    (home / "archives" / ("b" * 24 + ".zip")).symlink_to(dear / ("a" * 24) / "mine.png")
    (home / "decoded" / ("a" * 24)).symlink_to(dear / ("a" * 24))
    (home / "digests" / "mine").parent.mkdir(exist_ok=True)
    (home / "digests" / "mine").touch()
    (folder / "mine.png").touch()
    with pytest.raises(SystemExit):
        main(["cache", "--delete-all"])
    said = capsys.readouterr()
    assert "holds 'mine.png', which no cache has" in said.err and said.out == "freed 0 B\n"
    assert {file.name for file in folder.iterdir()} == {
        *("pixels.bin", "index.safetensors", "about.json", "mine.png")
    }
    (folder / "mine.png").unlink()
    main(["cache", "--delete-all"])
    assert not folder.exists() and (dear / ("a" * 24) / "mine.png").exists()
    assert (home / "decoded" / "photos" / "mine.png").exists()
    assert (home / "archives" / "mine.zip").exists() and (home / "digests" / "mine").exists()


@pytest.mark.parametrize("kind", ["decoded", "archives", "digests"])
def test_a_folder_of_caches_that_is_a_link_keeps_what_is_there(home, tmp_path, capsys, kind):
    there = tmp_path / "there"
    there.mkdir()
    home.mkdir(parents=True)
    (home / kind).symlink_to(there)
    mine = there / ("a" * 24 + (".zip" if kind == "archives" else ""))
    mine.mkdir() if kind == "decoded" else mine.touch()
    with pytest.raises(SystemExit):
        main(["cache", "--delete-all"])
    assert "is a link, which is not followed" in capsys.readouterr().err and mine.exists()


def test_a_lock_that_is_a_link_is_not_emptied(source, tmp_path, caplog):
    folder = build(source).folder
    shutil.rmtree(folder)
    (tmp_path / "dear").write_text("mine")
    lock = folder.with_name(folder.name + ".lock")
    lock.unlink(missing_ok=True)
    lock.symlink_to(tmp_path / "dear")
    with caplog.at_level(logging.WARNING, logger="effssl"):
        assert build(source) is None
    assert "no cache in" in caplog.text and (tmp_path / "dear").read_text() == "mine"


def test_a_kept_digest_of_garbage_is_made_anew(home):
    source = load_source(split="test", in_chans=1)
    found = source.digest()
    (kept,) = [path for path in (home / "digests").iterdir() if path.suffix != ".lock"]
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        kept.unlink()
        make(kept)
        assert source.digest() == found
    kept.unlink(missing_ok=True)
    kept.write_text(json.dumps("x" * 1000))
    assert source.digest() == found

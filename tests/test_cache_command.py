"""``effssl cache``: what it lists and deletes, and what it never does."""

import os
import time
from pathlib import Path

import pytest
from forked import Forked

from effssl.cli import main
from effssl.data import _cache as cache
from effssl.data import _cache_list, load_source
from effssl.data import _digest as digest
from effssl.data._cache import cache_images
from effssl.data._locks import held_open, locked

DAY = 86_400


@pytest.fixture
def home(tmp_path, monkeypatch):
    for module in (cache, digest, _cache_list):
        monkeypatch.setattr(module, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "effssl"


def decode(short_side=100, split="train", name="photos", data=None):
    source = load_source(str(data), split)
    return cache_images(source, short_side, max_bytes=1e9, workers=0, name=name)


def unused_for(folder, days):
    os.utime(folder, (time.time() - days * DAY,) * 2)
    return folder


def shown(capsys, *arguments):
    main(["cache", *arguments])
    return capsys.readouterr().out.splitlines()


def test_the_list_says_name_size_last_use_and_data_set_the_oldest_first(home, image_folder, capsys):
    folders = [decode(side, data=image_folder, name=f"set {side}").folder for side in (8, 16, 12)]
    for folder, days in zip(folders, (3, 30, 1), strict=True):
        unused_for(folder, days)
    lines = shown(capsys)
    assert [line.split()[0] for line in lines] == [folders[i].name for i in (1, 0, 2)] + ["total"]
    day = time.strftime("%Y-%m-%d", time.localtime(time.time() - 30 * DAY))
    assert day in lines[0] and lines[0].endswith("set 16, 24 images, 3 channels, 16 px")
    size = sum(file.stat().st_size for folder in folders for file in folder.iterdir())
    assert lines[-1].split()[1:] == [f"{size / 1000:.1f}", "kB", "in", str(home)]


def test_opening_a_cache_makes_it_the_newest(home, image_folder):
    first, second = (decode(side, data=image_folder).folder for side in (8, 16))
    unused_for(first, 5), unused_for(second, 2)
    decode(8, data=image_folder)
    assert [entry.path for entry in _cache_list.list_caches()] == [second, first]


def test_caches_of_earlier_versions_and_those_not_finished_are_listed_as_such(
    home, image_folder, capsys, monkeypatch
):
    folder = decode(data=image_folder).folder
    (folder / "about.json").unlink()
    monkeypatch.setattr(_cache_list, "FORMAT", 1)  # the last one without such a file
    assert shown(capsys)[0].endswith("decoded images of an unknown data set")
    monkeypatch.setattr(_cache_list, "FORMAT", 2)
    assert shown(capsys)[0].endswith("of an older format, which is not read any more")
    folder.rename(folder.with_name("0" * 24 + ".partial"))
    assert shown(capsys)[0].endswith("not finished")
    assert shown(capsys, "--delete-all")[-1].startswith("freed ")
    assert not [path for path in (home / "decoded").iterdir() if path.is_dir()]


def test_an_empty_cache_is_a_total_of_nothing(home, capsys):
    assert shown(capsys)[0].split()[:3] == ["total", "0", "B"]
    assert shown(capsys, "--delete-all") == ["freed 0 B"] and not home.exists()


def test_what_is_named_or_old_is_deleted_and_nothing_else(home, image_folder, capsys):
    sides = (8, 9, 10, 11)
    folders = [unused_for(decode(s, data=image_folder).folder, 10 * s - 75) for s in sides]
    size = _cache_list.list_caches()[-1].bytes
    lines = shown(capsys, "--delete", folders[0].name)
    assert [folder.exists() for folder in folders] == [False, True, True, True]
    assert lines[0].startswith(f"deleted {folders[0].name}, ") and "photos" in lines[0]
    assert lines[1] == f"freed {size / 1000:.1f} kB"
    shown(capsys, "--delete-older-than", "20")
    assert [folder.exists() for folder in folders] == [False, True, False, False]
    assert len(decode(11, data=image_folder)) == 24  # made anew
    shown(capsys, "--delete-all")
    assert not [path for path in (home / "decoded").iterdir() if path.is_dir()]


def test_copies_of_archives_are_listed_and_deleted_unless_they_are_open(home, capsys):
    folder = home / "archives"
    folder.mkdir(parents=True)
    copy, begun = f"{'a' * 24}.zip", f"{'b' * 24}.partial"
    for name in (copy, begun, f"{copy}.lock"):
        (folder / name).write_bytes(bytes(1500))
    lines = shown(capsys)
    assert {line.split()[0]: line.split("  ")[-1] for line in lines[:-1]} == {
        copy: "copy of a compressed archive",
        begun: "not finished",
    }
    with held_open(folder / copy), pytest.raises(SystemExit):
        main(["cache", "--delete-all"])
    assert (folder / copy).exists() and not (folder / begun).exists()
    capsys.readouterr()
    assert shown(capsys, "--delete", copy)[-1] == "freed 1.5 kB"
    assert not (folder / copy).exists()


def test_digests_are_one_entry_and_can_be_deleted(home, capsys):
    source = load_source(split="test", in_chans=1)
    found = source.digest()
    assert "digests of 1 data sets" in shown(capsys)[0]
    shown(capsys, "--delete", "digests")
    assert source.digest(read=False) is None and source.digest() == found


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--delete", "nothing"], "nothing in the cache is called nothing"),
        (["--delete-older-than", "-1"], "must be 0 days or more"),
        (["--delete-all", "--delete-older-than", "3"], "give one of"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_exit_code_2(home, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        main(["cache", *arguments])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and message in said and len(said.splitlines()) == 1


def wait_for(file, alive=lambda: True):
    while not file.exists():
        assert alive()
        time.sleep(0.01)


def _hold(home, data, ready, done):
    for module in (cache, digest):
        module.HF_HOME = home
    images = decode(data=data)
    Path(ready).touch()
    wait_for(Path(done))
    assert len(images) == 24


def test_what_another_process_uses_or_decodes_is_kept_until_it_ends(
    home, image_folder, tmp_path, capsys
):
    decode(data=image_folder)
    ready, done = tmp_path / "ready", tmp_path / "done"
    where = str(home.parent), str(image_folder), str(ready), str(done)
    process = Forked(tmp_path / "log", _hold, *where)
    wait_for(ready, process.alive)
    capsys.readouterr()
    (entry,) = _cache_list.list_caches()
    with pytest.raises(SystemExit) as ended:
        main(["cache", "--delete-all"])
    said = capsys.readouterr()
    done.touch()
    assert ended.value.code == 2 and said.out == "freed 0 B\n"
    assert said.err.startswith(f"kept {entry.name}: a running process uses ")
    assert (entry.path / "pixels.bin").is_file()
    assert process.wait() == 0, process.log()
    with locked(entry.path), pytest.raises(TimeoutError, match="another process holds"):
        _cache_list.delete_cache(entry)  # which is being decoded
    _cache_list.delete_cache(entry)
    assert not entry.path.exists()


def test_this_process_uses_a_cache_as_long_as_its_images_are_there(home, image_folder):
    images = decode(data=image_folder)
    (entry,) = _cache_list.list_caches()
    with pytest.raises(TimeoutError, match="a running process uses"):
        _cache_list.delete_cache(entry)
    del images
    _cache_list.delete_cache(entry)
    assert not _cache_list.list_caches()

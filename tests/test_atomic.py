"""Files and folders are whole or not there, and nothing is written through a link."""

import fcntl
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from effssl import atomic
from effssl.atomic import (
    one_writer,
    open_to_append,
    replacing,
    replacing_folder,
    wait_for_folder,
    write_json,
    write_text,
)


def test_a_file_takes_the_place_of_the_earlier_one(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "one")
    write_text(path, "zwölf\n")
    assert path.read_text(encoding="utf-8") == "zwölf\n" and os.listdir(tmp_path) == ["a.txt"]
    write_json(path, {"x": [1, None]})
    assert json.loads(path.read_text()) == {"x": [1, None]}


def test_what_was_there_stays_where_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "one")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write("half")
        raise KeyError
    with pytest.raises(ValueError):
        write_json(path, float("nan"))
    assert path.read_text() == "one" and os.listdir(tmp_path) == ["a.txt"]


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    target = tmp_path / "precious"
    target.write_text("mine")
    for name in ("a.txt", ".a.txt.partial", "a.txt.partial"):
        (tmp_path / name).symlink_to(target)
    write_text(tmp_path / "a.txt", "new")
    assert target.read_text() == "mine"
    assert not (tmp_path / "a.txt").is_symlink() and (tmp_path / "a.txt").read_text() == "new"


def test_files_and_folders_have_the_rights_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a", "wb") as file:
            file.write(b"x")
        with replacing_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o750


def test_a_folder_takes_the_place_of_the_earlier_one_or_leaves_it(tmp_path):
    path = tmp_path / "new" / "model"
    for text in ("one", "two"):
        with replacing_folder(path) as partial:
            (partial / text).write_text(text)
    with pytest.raises(KeyError), replacing_folder(path):
        raise KeyError
    assert os.listdir(path) == ["two"] and os.listdir(path.parent) == ["model"]


def plant(folder):
    folder.mkdir()
    (folder / ".git").mkdir()
    for name in ("old", "stale", "notes", ".git/HEAD"):
        (folder / name).write_text("earlier")
    (folder / "link").symlink_to("notes")


def test_a_folder_keeps_what_others_put_into_the_earlier_one(tmp_path):
    plant(tmp_path / "model")
    with replacing_folder(tmp_path / "model", written={"old", "stale"}) as partial:
        (partial / "old").write_text("new")
    assert os.listdir(tmp_path) == ["model"]
    assert sorted(os.listdir(tmp_path / "model")) == [".git", "link", "notes", "old"]
    assert (tmp_path / "model/.git/HEAD").read_text() == "earlier"
    assert (tmp_path / "model/old").read_text() == "new" and (tmp_path / "model/link").is_symlink()


def test_what_others_put_into_a_folder_survives_a_kill_after_it_was_replaced(tmp_path):
    plant(tmp_path / ".model.00112233.earlier")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("new")
    (tmp_path / "model" / ".git").mkdir()  # was moved before the kill
    with pytest.raises(KeyError), replacing_folder(tmp_path / "model", written={"old", "stale"}):
        raise KeyError
    assert sorted(os.listdir(tmp_path / "model")) == [".git", "link", "notes", "old"]
    assert os.listdir(tmp_path) == ["model"]


def test_what_a_linked_folder_leads_to_keeps_its_files(tmp_path):
    plant(tmp_path / "elsewhere")
    (tmp_path / "model").symlink_to(tmp_path / "elsewhere")
    with replacing_folder(tmp_path / "model", written={"old"}):
        pass
    assert len(os.listdir(tmp_path / "elsewhere")) == 5 and os.listdir(tmp_path / "model") == []


def test_a_folder_that_cannot_get_its_name_leaves_the_earlier_one(tmp_path, monkeypatch):
    path = tmp_path / "model"
    with replacing_folder(path) as partial:
        (partial / "one").write_text("1")
    rename = Path.rename

    def fails(self, target):
        if ".partial" in self.name:
            raise PermissionError("it is open elsewhere")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(PermissionError), replacing_folder(path):
        pass
    assert os.listdir(tmp_path) == ["model"] and os.listdir(path) == ["one"]


def test_what_killed_processes_left_of_a_folder_is_deleted(tmp_path):
    path = tmp_path / "model"
    for name in (".model.00112233.partial", ".model.00112233.earlier", ".model2.0011.partial"):
        (tmp_path / name).mkdir()
    with replacing_folder(path):
        pass
    assert sorted(os.listdir(tmp_path)) == [".model2.0011.partial", "model"]


def test_an_earlier_folder_that_a_kill_left_without_its_name_is_not_lost(tmp_path):
    earlier = tmp_path / ".model.00112233.earlier"
    earlier.mkdir()
    (earlier / "one").write_text("1")
    with pytest.raises(KeyError), replacing_folder(tmp_path / "model"):
        raise KeyError
    assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == ["one"]


def test_a_file_that_cannot_get_its_name_leaves_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        write_text(tmp_path / "a", "text")
    assert os.listdir(tmp_path) == ["a"]


def test_threads_leave_the_umask_alone(tmp_path):
    before = os.umask(0o022)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda i: write_text(tmp_path / str(i % 3), "x"), range(200)))
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_linked_folder_is_replaced_and_what_it_leads_to_stays(tmp_path, target):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "one").write_text("1")
    (tmp_path / "model").symlink_to(tmp_path / target)
    for _ in range(2):
        with replacing_folder(tmp_path / "model") as partial:
            (partial / "two").write_text("2")
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "model"]
    assert os.listdir(tmp_path / "model") == ["two"]
    assert os.listdir(tmp_path / "elsewhere") == ["one"]


def test_lines_are_added_to_a_file_and_not_to_what_a_link_leads_to(tmp_path):
    for text in ("one\n", "zwölf\n"):
        with open_to_append(tmp_path / "lines") as file:
            file.write(text)
    assert (tmp_path / "lines").read_text(encoding="utf-8") == "one\nzwölf\n"
    (tmp_path / "link").symlink_to(tmp_path / "new")
    with pytest.raises(OSError, match="link is a link, which is not written through"):
        open_to_append(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError):
        open_to_append(tmp_path / "pipe")  # and does not wait
    assert not (tmp_path / "new").exists()


def test_a_folder_that_has_no_name_for_a_moment_is_waited_for(tmp_path):
    path, earlier = tmp_path / "model", tmp_path / ".model.00112233.earlier"
    earlier.mkdir()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(lambda: (time.sleep(0.1), earlier.rename(path)))
        wait_for_folder(path, seconds=60)
    assert path.is_dir()
    wait_for_folder(tmp_path / "missing", seconds=60)  # which returns at once


def test_temporary_files_that_killed_processes_left_are_deleted_after_an_hour(tmp_path):
    for name in (".a.txt.00112233.partial", ".a.txt.44556677.partial", ".b.txt.00112233.partial"):
        (tmp_path / name).write_text("half")
    hours_ago = time.time() - 2 * 3600
    for name in (".a.txt.00112233.partial", ".b.txt.00112233.partial"):
        os.utime(tmp_path / name, (hours_ago, hours_ago))
    write_text(tmp_path / "a.txt", "whole")
    left = [".a.txt.44556677.partial", ".b.txt.00112233.partial", "a.txt"]
    assert sorted(os.listdir(tmp_path)) == left


def test_a_pipe_and_a_folder_are_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match=f"{name} is a .*: choose another name"):
            write_text(tmp_path / name, "text")
    assert (tmp_path / "pipe").is_fifo() and sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_what_only_looks_like_a_temporary_folder_stays(tmp_path):
    mine = [".model.mine.earlier", ".model.mine.partial", ".model.0011223344.partial"]
    for name in mine:
        (tmp_path / name).mkdir()
    with replacing_folder(tmp_path / "model"):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted([*mine, "model"])


def test_a_folder_that_others_keep_locked_is_named_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_MOST_WAIT", 0.1)
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match=f"locked the folder {tmp_path} for 0.1 seconds"):
            with one_writer(tmp_path / "model"):
                pass
        fcntl.flock(held, fcntl.LOCK_UN)
        with one_writer(tmp_path / "model"):
            pass
    finally:
        os.close(held)

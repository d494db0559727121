"""Extractions to one output at the same time: each file holds the features of one, and all."""

import os
import random
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from forked import Forked, launch
from safetensors.torch import load_file

import effssl
from effssl.atomic import write_json
from effssl.cli import main
from effssl.data import load_source
from effssl.data._locks import locked
from effssl.evaluation import _feature_file as feature_file
from effssl.evaluation import extract_features
from effssl.evaluation._feature_file import FeatureFile

IMAGES = 70


def extract(output=None, batch_size=16, wait_after=None, pause=0.0):
    """Features; or of a file, how many batches were left for this process to write."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=8).eval()
    source = load_source("fashion-mnist-sample", f"train[:{IMAGES}]", in_chans=1)
    written, write = [], FeatureFile.write

    def slowly(self, rows, found):
        write(self, rows, found)
        written.append(found.number)
        time.sleep(pause)
        if wait_after and len(written) == 2:
            Path(f"{wait_after}.ready").touch()
            wait_for(f"{wait_after}.go")

    FeatureFile.write, feature_file._SAVE_SECONDS = slowly, 0
    try:
        found = extract_features(net, source, batch_size=batch_size, output=output)
    finally:
        FeatureFile.write = write
    return torch.tensor(written) if output else found


def wait_for(file, alive=lambda: True):
    end = time.monotonic() + 100
    while not Path(file).exists():
        assert alive() and time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def expected():
    return {size: extract(batch_size=size) for size in (16, 10)}


@pytest.fixture
def first(tmp_path):
    """An extraction that has written two of five batches and waits."""
    output = tmp_path / "made" / "x.safetensors"
    process = Forked(tmp_path / "log", extract, str(output), 16, str(tmp_path / "wait"))
    wait_for(tmp_path / "wait.ready", process.alive)
    process.output = output
    yield process
    process.process.kill()


def test_the_same_extraction_says_who_writes_the_output(first, tmp_path, expected):
    by = f"is being written by process {first.process.pid} on {socket.gethostname()}: wait for it"
    with pytest.raises(FileExistsError, match=by):
        extract(first.output)
    (tmp_path / "wait.go").touch()
    assert first.result().tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(load_file(first.output)["features"], expected[16])
    assert os.listdir(first.output.parent) == ["x.safetensors"]


def test_every_process_of_a_group_is_refused(first, tmp_path):
    for fork in launch(tmp_path / "group", 2, extract, str(first.output)):
        assert fork.wait() == 1
        assert f"is being written by process {first.process.pid} on " in fork.log()


def test_other_features_do_not_touch_the_first_ones_and_do_not_replace_them(
    first, tmp_path, expected
):
    second = Forked(tmp_path / "log2", extract, str(first.output), 10, str(tmp_path / "wait2"))
    wait_for(tmp_path / "wait2.ready", second.alive)
    (tmp_path / "wait.go").touch()
    assert first.wait() == 0, first.log()
    (tmp_path / "wait2.go").touch()
    assert second.wait() == 1
    assert "x.safetensors has been made by another process meanwhile" in second.log()
    assert torch.equal(load_file(first.output)["features"], expected[16])
    first.output.rename(tmp_path / "mine")  # and nothing is computed anew
    assert extract(first.output, 10).tolist() == []
    assert torch.equal(load_file(first.output)["features"], expected[10])


def test_a_killed_extraction_blocks_nobody(first, expected):
    first.kill()
    assert extract(first.output).tolist() == [2, 3, 4]
    assert torch.equal(load_file(first.output)["features"], expected[16])


def _hold(folder, dead):
    with locked(Path(folder) / "extraction", wait=False):
        write_json(Path(folder) / "holder.json", {"pid": dead, "host": socket.gethostname()})
        Path(f"{folder}.ready").touch()
        time.sleep(1)


def test_workers_that_outlive_a_killed_extraction_are_waited_for(first, tmp_path, expected):
    first.kill()
    (partial,) = first.output.parent.glob("*.partial")
    worker = Forked(tmp_path / "worker", _hold, str(partial), first.process.pid)
    wait_for(f"{partial}.ready", worker.alive)
    assert extract(first.output).tolist() == [2, 3, 4]
    assert worker.wait() == 0 and torch.equal(load_file(first.output)["features"], expected[16])


@pytest.mark.parametrize("holder", [None, "[]", '{"pid": -1, "host": 3}', '{"pid": true}'])
def test_whoever_holds_the_lock_is_waited_for_within_bounds(first, monkeypatch, holder):
    (partial,) = first.output.parent.glob("*.partial")
    (partial / "holder.json").unlink()
    if holder is not None:
        (partial / "holder.json").write_text(holder)
    monkeypatch.setattr("effssl.evaluation._partial_folder._PATIENCE", 0.3)
    with pytest.raises(FileExistsError, match="is being written by another process: wait for it"):
        extract(first.output)


def _tampered(monkeypatch, change):
    save = FeatureFile._save

    def changed(self):
        save(self)
        change(self)

    monkeypatch.setattr(FeatureFile, "_save", changed)


def _forget(file):
    for done in file.partial.glob("done-*"):
        done.unlink()


def _replace(file):
    file.path.unlink()
    file.path.write_bytes(bytes(100_000))


def _delete(file):
    file.path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "change, message",
    [
        (_forget, "5 of 5 batches are not recorded in .*give the same command again"),
        (_replace, "deleted or replaced by something else while features were written"),
        (_delete, "deleted or replaced by something else while features were written"),
    ],
)
def test_an_output_whose_batches_are_not_all_there_gets_no_name(
    tmp_path, monkeypatch, expected, change, message
):
    output = tmp_path / "x.safetensors"
    with monkeypatch.context() as patch:
        _tampered(patch, change)
        with pytest.raises(OSError, match=message):
            extract(output)
    assert not output.exists()
    extract(output)
    assert torch.equal(load_file(output)["features"], expected[16])


@pytest.mark.parametrize("ending", [".safetensors", ".parquet", ""])
def test_what_has_the_name_at_the_end_stays(tmp_path, monkeypatch, ending):
    output = tmp_path / f"x{ending}"
    _tampered(monkeypatch, lambda file: output.write_text("mine"))
    with pytest.raises(FileExistsError, match="made by another process meanwhile: move it away"):
        extract(output)
    assert output.read_text() == "mine"


def test_a_system_without_hard_links_replaces_nothing_either(tmp_path, monkeypatch, expected):
    def refused(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    output = tmp_path / "x.safetensors"
    extract(output)
    assert torch.equal(load_file(output)["features"], expected[16])
    _tampered(monkeypatch, lambda file: (tmp_path / "y.safetensors").write_text("mine"))
    with pytest.raises(FileExistsError, match="made by another process meanwhile"):
        extract(tmp_path / "y.safetensors")


def test_a_file_system_without_locks_is_named_and_does_not_end_it(
    tmp_path, monkeypatch, expected, caplog
):
    def flock(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    extract(tmp_path / "x.safetensors")
    assert torch.equal(load_file(tmp_path / "x.safetensors")["features"], expected[16])
    assert "is on a file system without locks: start no second extraction" in caplog.text


def test_folders_of_the_user_are_not_taken_for_leftovers(tmp_path):
    kept = ["x.safetensors.partial", "x.safetensors.mine.partial", "y.parquet.0123456789ab.partial"]
    for name in [*kept, "x.safetensors.0123456789ab.partial"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "note").touch()
    (tmp_path / "x.safetensors.aaaaaaaaaaaa.partial").symlink_to(tmp_path / kept[0])
    extract(tmp_path / "x.safetensors")
    assert sorted(os.listdir(tmp_path)) == sorted(
        [*kept, "x.safetensors", "x.safetensors.aaaaaaaaaaaa.partial"]
    )
    assert all((tmp_path / name / "note").exists() for name in kept)


@pytest.mark.slow
def test_extractions_killed_at_random_never_mix(tmp_path, expected):
    draw, output, made = random.Random(0), tmp_path / "x.safetensors", 0
    for turn in range(50):
        forks = [
            Forked(tmp_path / f"{i}.log", extract, str(output), draw.choice([16, 10]), None, 0.02)
            for i in range(3)
        ]
        time.sleep(draw.uniform(0, 2))
        for fork in draw.sample(forks, 2):
            if fork.alive():
                fork.send_signal(signal.SIGKILL)
        for fork in forks:
            code = fork.wait()
            said = fork.log()
            assert code in (0, -signal.SIGKILL) or "FileExistsError: " in said, (turn, said)
        if output.exists():
            found, made = load_file(output)["features"], made + 1
            assert any(torch.equal(found, whole) for whole in expected.values())
            output.unlink()
    assert made > 5


def test_the_command_ends_in_one_line(first, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("effssl.evaluation._partial_folder._PATIENCE", 0)
    (partial,) = first.output.parent.glob("*.partial")
    monkeypatch.setattr(
        "effssl.evaluation._feature_file.partial_folder", lambda output, fingerprint: partial
    )
    torch.manual_seed(0)
    net = effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=8)
    effssl.save_pretrained(net, tmp_path / "model")
    with pytest.raises(SystemExit) as ended:
        main(
            ["features", str(tmp_path / "model"), "--output", str(first.output), "--cpu"]
            + ["--dataset", "fashion-mnist-sample", "--split", "test[:8]"]
        )
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert ended.value.code == 2 and len(said) == 1 and "is being written by process" in said[0]

"""A run knows its images from any folder, and says where it looked if they are not there."""

import json
import shutil

import pytest
from runs import EVERY_STEP, TINY
from test_resumed_images import write

import effssl
from effssl import PretrainConfig, cli
from effssl.cli._model import images_of
from effssl.data import _cache as cache
from effssl.training import loop
from effssl.training._run_images import IMAGES, find_dataset, place_of

SMALL = TINY | EVERY_STEP | {"split": "train", "max_steps": 1, "checkpoint_steps": None}


@pytest.fixture
def start(tmp_path, monkeypatch):
    """The folder where runs are started, with data/imgs in it."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "start" / "data" / "imgs", 16)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "start")
    return tmp_path / "start"


def pretrain(**changes):
    given = {"dataset": "data/imgs", "output": "runs/x"} | changes
    config = PretrainConfig(**(SMALL | given))
    effssl.pretrain(config)
    return config


def test_evaluate_from_another_folder_finds_the_images_and_publishes_no_path(
    start, monkeypatch, capsys
):
    pretrain()
    monkeypatch.chdir(start.parent / "elsewhere")
    spectrum = ["--protocols", "spectrum", "--test-split", "train", "--cpu"]
    cli.main(["evaluate", "../start/runs/x", *spectrum])
    assert f"\n16 images of {start / 'data' / 'imgs'}, train\n" in capsys.readouterr().out
    text = (start / "runs/x/model/training.json").read_text()
    assert json.loads(text)["evaluation"] and str(start) not in text
    (start / "runs/x" / IMAGES).unlink()  # as in runs of earlier versions
    cli.main(["evaluate", "../start/runs/x/model", *spectrum])
    assert f"\n16 images of {start / 'data' / 'imgs'}, train\n" in capsys.readouterr().out


def test_images_are_found_where_the_run_was_started_else_where_they_lay(start, monkeypatch):
    config = pretrain()
    here, there = start / "runs/x", start.parent / "elsewhere"
    assert find_dataset(here, config) == "data/imgs"
    monkeypatch.chdir(there)
    write(there / "data" / "imgs", 3)  # others of that name
    assert find_dataset(here, config) == str(start / "data" / "imgs")
    copied = shutil.copytree(here, there / "kept")
    assert find_dataset(copied, config) == str(start / "data" / "imgs")
    moved = start.parent / "moved"
    start.rename(moved)
    assert find_dataset(moved / "runs/x", config) == str(moved / "data" / "imgs")
    assert find_dataset(copied, config) == str(start / "data" / "imgs")  # to be named in an error


@pytest.mark.parametrize("dataset", ["fashion-mnist-sample", "owner/name", "/data/imgs"])
def test_a_data_set_that_is_no_relative_path_keeps_its_name(start, dataset):
    config = PretrainConfig(dataset=dataset, output="runs/x")
    (start / "fashion-mnist-sample").mkdir()  # which is not what the name means
    assert place_of("fashion-mnist-sample") is None
    assert find_dataset(start / "runs/x", config) == dataset


def test_a_pattern_is_found_likewise(start, monkeypatch):
    config = pretrain(dataset="data/imgs/*.bmp")
    monkeypatch.chdir(start.parent)
    assert find_dataset(start / "runs/x", config) == str(start / "data/imgs/*.bmp")


def test_images_that_are_gone_are_named_with_where_they_were_looked_for(start, monkeypatch):
    trained = {"dataset": "imgs", "image_column": None}
    with pytest.raises(FileNotFoundError) as info:
        images_of("runs/x", trained, None, None)
    said = str(info.value)
    assert "runs/x was trained on 'imgs', a path relative to the folder where" in said
    assert f"nothing is there from {start}: give --dataset" in said
    assert images_of("runs/x", trained, "data/imgs", None) == ("data/imgs", None)

    config = pretrain()
    shutil.rmtree(start / "data")
    lost = str(start / "data" / "imgs")
    assert find_dataset(start / "runs/x", config) == lost
    with pytest.raises(FileNotFoundError, match=f"on '{lost}', which is not there any more"):
        images_of("runs/x", trained | {"dataset": lost}, None, None)


def test_a_cache_is_named_after_the_folder_of_its_images(start, monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "home"))
    pretrain()
    (about,) = (tmp_path / "home" / "effssl" / "decoded").glob("*/about.json")
    assert json.loads(about.read_text())["dataset"] == str(start / "data" / "imgs")


def test_images_that_are_moved_away_while_training_are_not_published(start, monkeypatch):
    """Without them their relative path reads as a name on the Hub."""
    step = loop.Monitor.step

    def moved_at_first(self, number, *args, **more):
        step(self, number, *args, **more)
        if number == 1:
            (start / "data").rename(start / "elsewhere")

    monkeypatch.setattr(loop.Monitor, "step", moved_at_first)
    pretrain(max_steps=None, epochs=2)
    assert not (start / "data").exists()
    record = json.loads((start / "runs/x/model/training.json").read_text())
    assert record["step"] == 4 and record["config"]["dataset"] is None
    assert "data/imgs" not in json.dumps(record) and "imgs" not in record["command"]


def test_a_public_data_set_stays_so_when_a_folder_of_its_name_appears(start, monkeypatch):
    step = loop.Monitor.step

    def made_at_first(self, number, *args, **more):
        step(self, number, *args, **more)
        (start / "fashion-mnist-sample").mkdir(exist_ok=True)

    monkeypatch.setattr(loop.Monitor, "step", made_at_first)
    pretrain(dataset="fashion-mnist-sample", split="train[:16]")
    record = json.loads((start / "runs/x/model/training.json").read_text())
    assert record["config"]["dataset"] == "fashion-mnist-sample"

"""A run is resumed by what its images are, wherever they lie, and says when they are others."""

import json
import os
import shutil

import numpy as np
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from forked import launch
from PIL import Image
from runs import EVERY_STEP, TINY, Killed, kill, metrics

import effssl
from effssl import PretrainConfig, cli
from effssl.training._run_images import IMAGES

SMALL = TINY | EVERY_STEP | {"split": "train", "batch_size": 10, "epochs": 4, "workers": 0}
SMALL |= {"checkpoint_steps": 1, "cache_gb": 0.0}


def write(folder, images, seed=0):
    """Files of one size, whatever they show."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (images, 8, 8), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:03}.bmp")
    return folder


def write_rows(folder, images, seed=0):
    """The same images in the arrow file of a save_to_disk folder."""
    files = write(folder.with_name(f"{folder.name}-files"), images, seed)
    cells = [{"bytes": f.read_bytes(), "path": f.name} for f in sorted(files.iterdir())]
    shutil.rmtree(folder, ignore_errors=True)
    Dataset.from_dict({"image": cells}, features=Features({"image": ImageFeature()})).save_to_disk(
        folder
    )
    return folder


def pretrain(tmp_path, data, **changes):
    given = {"dataset": str(data), "output": str(tmp_path / "run")}
    return effssl.pretrain(PretrainConfig(**(SMALL | given | changes)))


def stopped(tmp_path, data, monkeypatch, step, **changes):
    """A run that was killed after a step."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, "_save_checkpoint", step + 1, before=True)
        pretrain(tmp_path, data, **changes)
    assert metrics(tmp_path / "run")[-1]["step"] >= step
    return tmp_path / "run"


def said(caplog):
    """What was said of the data set, by its level."""
    records = [r for r in caplog.records if r.getMessage().startswith("resuming ")]
    return {r.levelname: r.getMessage() for r in records if "from" not in r.msg}


KINDS = pytest.mark.parametrize("write_data", [write, write_rows])


@KINDS
@pytest.mark.parametrize("reading", [{}, {"cache_gb": 1.0}, {"streaming": True}], ids=str)
def test_a_data_set_that_was_moved_goes_on_to_the_same_bits(
    tmp_path, monkeypatch, caplog, write_data, reading
):
    data = write_data(tmp_path / "imgs", 40)
    whole = pretrain(tmp_path / "whole", data, **reading)
    run = stopped(tmp_path, data, monkeypatch, 6, **reading)
    moved = tmp_path / "pics"
    data.rename(moved)
    for file in moved.rglob("*"):
        os.utime(file, (1, 1))  # a copy without times
    with caplog.at_level("INFO", logger="effssl"):
        model = pretrain(tmp_path, moved, resume=True, **reading)
    what = "number of images" if reading.get("streaming") else "images"
    assert said(caplog) == {
        "INFO": f"resuming with the same {what} under another name: dataset was {str(data)!r}, "
        f"is {str(moved)!r}"
    }
    assert PretrainConfig.load(run / "config.json").dataset == str(moved)
    for name in ("model.safetensors", "projector.safetensors"):
        assert (model / name).read_bytes() == (whole / name).read_bytes()


@KINDS
@pytest.mark.parametrize(
    "images, seed, how",
    [(46, 0, "there were 40 images and are 46"), (40, 1, "differ")],
    ids=["more", "others"],
)
def test_other_images_under_another_name_are_refused(
    tmp_path, monkeypatch, write_data, images, seed, how
):
    data = write_data(tmp_path / "imgs", 40)
    run = stopped(tmp_path, data, monkeypatch, 6)
    before = (run / "config.json").read_bytes(), (run / IMAGES).read_bytes(), metrics(run)
    other = write_data(tmp_path / "pics", images, seed)
    if write_data is write and images == 40:
        (other / "000.bmp").rename(other / "0.bmp")  # of files only names and sizes are known
    with pytest.raises(ValueError, match=f"dataset was .*imgs', is .*pics': .*{how}"):
        pretrain(tmp_path, other, resume=True)
    assert ((run / "config.json").read_bytes(), (run / IMAGES).read_bytes(), metrics(run)) == before
    pretrain(tmp_path, data, resume=True)
    assert metrics(run)[-1]["step"] == 16


@pytest.mark.parametrize(
    "images, step, counter",
    [
        (46, 4, ""),
        (53, 4, "; step 4 was the end of epoch 1 and is now in epoch 0.8"),
        (29, 6, "; step 6 was in epoch 1.5 and is now the end of epoch 3"),
    ],
)
@pytest.mark.parametrize("reading", [{}, {"streaming": True}], ids=str)
def test_changed_images_under_the_same_name_are_told_with_the_epoch_that_the_step_is_in_now(
    tmp_path, monkeypatch, caplog, reading, images, step, counter
):
    data = write(tmp_path / "imgs", 40)
    run = stopped(tmp_path, data, monkeypatch, step, **reading)
    shutil.rmtree(data)
    write(data, images)
    pretrain(tmp_path, data, resume=True, **reading)
    change = f"changed: there were 40 images and are {images}{counter}"
    assert said(caplog) == {"WARNING": f"resuming though the data set {str(data)!r} {change}"}
    last = metrics(run)[-1]
    assert last["step"] == 4 * (images // 10) and last["epoch"] == 4
    caplog.clear()
    pretrain(tmp_path, data, resume=True, **reading)
    assert not said(caplog)  # once is enough


def test_a_run_of_an_earlier_version_resumes_by_the_name_alone(tmp_path, monkeypatch, caplog):
    data = write(tmp_path / "imgs", 40)
    run = stopped(tmp_path, data, monkeypatch, 4)
    (run / IMAGES).unlink()
    with pytest.raises(ValueError, match="another configuration: dataset was .*imgs', is .*pics'"):
        pretrain(tmp_path, write(tmp_path / "pics", 40), resume=True)
    write(data, 46)
    pretrain(tmp_path, data, resume=True)
    assert not said(caplog) and json.loads((run / IMAGES).read_text())["images"] == 46


def test_an_overwritten_run_takes_any_images(tmp_path, caplog):
    pretrain(tmp_path, write(tmp_path / "imgs", 40), max_steps=1)
    pretrain(tmp_path, write(tmp_path / "pics", 30), max_steps=1, overwrite=True)
    assert not said(caplog)
    known = json.loads((tmp_path / "run" / IMAGES).read_text())
    assert known["images"] == 30 and known["path"] == str(tmp_path / "pics")


def test_what_is_published_holds_no_path_and_no_digest(tmp_path):
    model = pretrain(tmp_path, write(tmp_path / "imgs", 40), max_steps=1)
    known = json.loads((tmp_path / "run" / IMAGES).read_text())
    text = (model / "training.json").read_text() + (model / "config.json").read_text()
    assert str(tmp_path) not in text and known["names"] not in text
    assert not (model / IMAGES).exists()


@pytest.mark.parametrize("name, code", [("pics", 0), ("others", 2)])
def test_two_processes_agree_on_what_the_first_one_finds(tmp_path, monkeypatch, name, code):
    data = write(tmp_path / "imgs", 40)
    run = stopped(tmp_path, data, monkeypatch, 4)
    write(tmp_path / "others", 41)
    data.rename(tmp_path / "pics")
    flags = PretrainConfig(
        **(SMALL | {"dataset": str(tmp_path / name), "output": str(run), "max_steps": 6})
    ).flags()
    forks = launch(tmp_path / "logs", 2, cli.main, ["pretrain", *flags, "--resume"])
    assert [fork.wait() for fork in forks] == [code, code], forks[0].log()
    logs = [fork.log() for fork in forks]
    told = "resuming with the same images" if code == 0 else "effssl: error: cannot resume"
    assert "".join(logs).count(told) == 1 and told in logs[0]

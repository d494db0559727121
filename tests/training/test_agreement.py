"""Processes that were given different flags or images end at once, and say which and where."""

import os
import random
import shutil
import time

import numpy as np
import pytest
import torch
from forked import launch
from PIL import Image
from runs import EVERY_STEP, TINY, metrics

from effssl import PretrainConfig, cli
from effssl.data._fingerprint import Fingerprint
from effssl.training import _agreement
from effssl.training._agreement import check_same_flags, check_same_images, together
from effssl.training._fields import names_where

AT_ONCE = 60  # seconds, of a timeout of 30 minutes

OTHERS = {
    "batch_size": 4,
    "seed": 7,
    "lr": 0.25,
    "split": "train[40:80]",
    "views": 3,
    "backbone": "test_vit",
    "precision": "fp64",
    "epochs": 3,
    "log_every": 2,
    "checkpoint_steps": 2,
    "evaluate_every": 1,
    "weight_decay": 0.5,
    "max_steps": 1,
    "overwrite": True,
}


def _pretrain(flags_of_ranks):
    torch.set_num_threads(1)
    cli.main(["pretrain", *flags_of_ranks[int(os.environ["RANK"])]])


def flags(tmp_path, **changes):
    config = TINY | EVERY_STEP | {"output": str(tmp_path / "run"), "epochs": 1} | changes
    return PretrainConfig(**config).flags()


def refused(tmp_path, *flags_of_ranks):
    """The one line that processes end with, each with exit code 2."""
    started = time.monotonic()
    forks = launch(tmp_path / "logs", len(flags_of_ranks), _pretrain, list(flags_of_ranks))
    try:
        assert [fork.wait(AT_ONCE) for fork in forks] == [2] * len(forks), forks[0].log()
    finally:
        for fork in forks:
            fork.process.kill()
    assert time.monotonic() - started < 2 * AT_ONCE
    return only_line(tmp_path, forks)


def only_line(tmp_path, forks):
    """The one error that all processes together print, after which nothing is left."""
    logs = "".join(fork.log() for fork in forks)
    assert "Traceback" not in logs and not (tmp_path / "run").exists()
    (line,) = [line for line in logs.splitlines() if line.startswith("effssl: error: ")]
    return line.removeprefix("effssl: error: ")


# Flags


@pytest.mark.parametrize("field", ["batch_size", "seed", "lr", "split"])
def test_processes_with_another_flag_end_with_one_line_that_names_it(tmp_path, field):
    value, here = OTHERS[field], (TINY | {"seed": 0, "lr": 0.001})[field]
    line = refused(tmp_path, flags(tmp_path), flags(tmp_path, **{field: value}))
    assert line == (
        f"the 2 processes of this run have different flags: --{field.replace('_', '-')} is "
        f"{here!r} on process 0, is {value!r} on process 1: give the same to all"
    )


def test_all_fields_and_all_ranks_that_differ_are_named(tmp_path):
    odd = flags(tmp_path, seed=7, lr=0.25)
    line = refused(tmp_path, flags(tmp_path), odd, flags(tmp_path, lr=0.25))
    assert "lr is 0.001 on process 0, is 0.25 on processes 1, 2" in line
    assert "seed is 0 on processes 0, 2, is 7 on process 1" in line


def test_what_counts_on_one_machine_or_in_the_main_process_may_differ(tmp_path):
    shutil.copytree(images(tmp_path / "a", 16), tmp_path / "b")
    here, there = {"dataset": str(tmp_path / "a")}, {"dataset": str(tmp_path / "b")}
    there |= {"workers": 0, "cache_gb": 0.0, "output": str(tmp_path / "nowhere")}
    some = [flags(tmp_path, split="train", **changes) for changes in (here, there)]
    forks = launch(tmp_path / "logs", 2, _pretrain, some)
    assert [fork.wait() for fork in forks] == [0, 0], forks[0].log()
    assert metrics(tmp_path / "run")[-1]["step"] == 2 and not (tmp_path / "nowhere").exists()


def as_if_gathered(monkeypatch, others):
    """Let the values of other processes be gathered after the one of this process."""
    monkeypatch.setattr(_agreement, "gather_objects", lambda value: [value, *others])
    monkeypatch.setattr(_agreement, "world_size", lambda: 1 + len(others))


def test_any_field_that_must_agree_is_found_and_no_other(monkeypatch):
    free = names_where(PretrainConfig(), "may_differ", True)
    assert free == {"dataset", "workers", "cache_gb", "output"}
    base, draw = PretrainConfig(), random.Random(0)
    for _ in range(300):
        ranks = []
        for _ in range(draw.randint(1, 5)):
            named = [name for name in OTHERS if draw.random() < 0.1]
            ranks.append({name: OTHERS[name] for name in named})
        others = [{k: v for k, v in (base.values() | r).items() if k not in free} for r in ranks]
        as_if_gathered(monkeypatch, others)
        wrong = set().union(*ranks)
        if not wrong:
            check_same_flags(base)
            continue
        with pytest.raises(ValueError) as info:
            check_same_flags(base)
        said = str(info.value)
        assert {name for name in base.values() if f" {name} is " in said} == wrong


def test_many_ranks_make_no_long_line(monkeypatch):
    mine = {"seed": 0}
    as_if_gathered(monkeypatch, [mine] * 99 + [{"seed": 7}] * 900)
    with pytest.raises(ValueError) as info:
        check_same_flags(PretrainConfig())
    assert "seed is 0 on processes 0, 1, 2, 3, 4, 5, 6, 7 and 92 more, is 7 on" in str(info.value)


# Images


def images(folder, count, seed=0):
    folder.mkdir()
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8), np.uint8)
    for i in range(count):
        Image.fromarray(pixels[i]).save(folder / f"{i:03}.bmp")
    return folder


def _pretrain_in(folders, arguments):
    os.chdir(folders[int(os.environ["RANK"])])
    _pretrain([arguments] * 2)


def refused_in(tmp_path, *folders):
    """As `refused`, where the same relative path leads each process to images of its own."""
    arguments = flags(tmp_path, dataset="imgs", split="train")
    forks = launch(tmp_path / "logs", 2, _pretrain_in, list(map(str, folders)), arguments)
    try:
        assert [fork.wait(AT_ONCE) for fork in forks] == [2, 2], forks[0].log()
    finally:
        for fork in forks:
            fork.process.kill()
    return only_line(tmp_path, forks)


@pytest.mark.parametrize("change", ["one more", "another name", "another size", "none"])
def test_processes_with_other_images_under_the_same_name_end_with_one_line(tmp_path, change):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        images(tmp_path / name / "imgs", 16)
    other = tmp_path / "b" / "imgs"
    if change == "one more":
        shutil.copy(other / "000.bmp", other / "016.bmp")
    elif change == "another name":
        (other / "003.bmp").rename(other / "003b.bmp")
    elif change == "another size":
        Image.new("L", (9, 9)).save(other / "003.bmp")
    else:
        shutil.rmtree(other)
    line = refused_in(tmp_path, tmp_path / "a", tmp_path / "b")
    if change == "none":
        assert line.startswith("process 1 of 2: no data set at 'imgs': there is no such file")
        return
    how = "in number" if change == "one more" else "in names or sizes"
    assert line.startswith(
        f"the 2 processes of this run have different images, {how}: --dataset is"
    )
    assert "'imgs (16 images, digest " in line and ")' on process 0, is 'imgs (1" in line
    assert line.endswith(")' on process 1: give the same to all")


def test_streams_of_other_names_and_contents_that_differ_are_told_apart(monkeypatch):
    config = PretrainConfig(dataset="me/a", streaming=True)
    as_if_gathered(monkeypatch, [("me/b", Fingerprint(40))])
    with pytest.raises(ValueError, match="for streams are told apart by their names: dataset is"):
        check_same_images(config, Fingerprint(40))
    as_if_gathered(monkeypatch, [("me/a", Fingerprint(40))])
    check_same_images(config, Fingerprint(40))
    as_if_gathered(monkeypatch, [("me/b", Fingerprint(40, "x", "22222222"))])
    with pytest.raises(ValueError, match="digest 11111111.*digest 22222222"):
        check_same_images(config, Fingerprint(40, "x", "11111111"))
    check_same_images(config, Fingerprint(40, "x"))  # who has not read the content does not know


# Errors


def test_an_error_of_one_process_is_the_error_of_all(monkeypatch):
    as_if_gathered(monkeypatch, [None, "no room"])
    with pytest.raises(ValueError, match="^process 2 of 3: no room$"), together():
        pass
    with pytest.raises(FileNotFoundError, match="mine"), together():
        raise FileNotFoundError("mine")
    as_if_gathered(monkeypatch, [None, None])
    with together():
        pass


def test_a_folder_that_the_main_process_may_not_have_ends_all(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years")
    forks = launch(tmp_path / "logs", 2, _pretrain, [flags(tmp_path)] * 2)
    assert [fork.wait(AT_ONCE) for fork in forks] == [2, 2], forks[1].log()
    assert "exists and is not a run folder" in forks[0].log()
    assert "effssl: error" not in forks[1].log()
    assert os.listdir(tmp_path / "run") == ["thesis.tex"]

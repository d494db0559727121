"""What a run tells: metrics.jsonl, and each tracker offline, before and after an interruption."""

import json
import os
import sqlite3

import pytest
import torch
from accelerate.state import AcceleratorState
from forked import Forked
from runs import Killed, kill, metrics, state, tiny

import effssl
from effssl.training._checkpoint import load_checkpoint

PARTS = {
    "bt": {"invariance", "redundancy"},
    "vicreg": {"invariance", "variance", "covariance"},
    "spectral": None,
}
ALWAYS = {
    "step",
    "epoch",
    "loss",
    "lr",
    "grad_norm",
    "feature_std",
    "feature_rank",
    "projection_std",
    "projection_rank",
    "views_per_s",
    "waiting",
    "memory_mb",
    "broken",
    "skipped_steps",
    "skipped_batches",
}


@pytest.mark.parametrize("loss", PARTS)
def test_a_line_holds_everything_in_plain_numbers(tmp_path, loss):
    effssl.pretrain(tiny(tmp_path, loss=loss, log_every=1, evaluate_every=0))
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 11))
    for line in lines:
        more = line.keys() - ALWAYS
        assert line.keys() >= ALWAYS and (more == PARTS[loss] if PARTS[loss] else more)
        assert all(isinstance(value, int | float) for value in line.values())
        assert line["grad_norm"] > 0 and line["views_per_s"] > 0 and line["memory_mb"] > 50
        assert 0 <= line["waiting"] <= 1
        assert line["broken"] == line["skipped_steps"] == 0
        assert 0 < line["feature_std"] <= 1 and 0 < line["projection_std"] <= 1
        assert 1 <= line["feature_rank"] <= 7 and 1 <= line["projection_rank"] <= 7
    assert [line["epoch"] for line in lines] == pytest.approx([step / 5 for step in range(1, 11)])


def test_the_weight_of_the_loss_is_the_one_that_is_given(tmp_path):
    effssl.pretrain(tiny(tmp_path, loss_weight=3.0, epochs=1, log_every=1))
    for line in metrics(tmp_path / "run"):
        assert line["loss"] == pytest.approx(16 * (line["invariance"] + 3 * line["redundancy"]))


def test_lines_come_every_m_steps_and_at_the_end_of_epochs(tmp_path):
    effssl.pretrain(tiny(tmp_path, log_every=4, max_steps=8, evaluate_every=0))
    assert [line["step"] for line in metrics(tmp_path / "run")] == [4, 5, 8]


def test_the_norm_of_the_gradient_is_that_of_the_first_step_of_plain_descent(tmp_path):
    weights, lines = [], []
    for lr in (1e-300, 1e-3):  # the first one leaves the weights as they were
        config = tiny(
            tmp_path / str(lr),
            optimizer="momentum",
            weight_decay=0.0,
            precision="fp64",
            lr=lr,
            max_steps=1,
            evaluate_every=0,
        )
        model = effssl.from_pretrained(effssl.pretrain(config))
        names = [f"{name}" for name, _ in model.named_parameters()]
        saved = state(tmp_path / str(lr) / "run", 1)["model"]
        weights.append(torch.cat([saved[name].flatten() for name in names]))
        lines += metrics(tmp_path / str(lr) / "run")
    by_hand = ((weights[0] - weights[1]) / 1e-3).norm().item()
    assert [line["grad_norm"] for line in lines] == pytest.approx([by_hand] * 2, rel=1e-6)


def test_skipped_steps_are_counted_and_written_without_numbers_that_json_lacks(tmp_path):
    config = tiny(tmp_path, optimizer="sgd", lr=1e30, max_steps=6, log_every=1, evaluate_every=0)
    effssl.pretrain(config)  # fewer in a row than end a run
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    lines = metrics(tmp_path / "run")
    skipped = [line for line in lines if line["loss"] is None]
    assert len(skipped) >= 3
    so_far = [[line["loss"] for line in lines[:i]].count(None) for i in range(1, 7)]
    assert [line["skipped_steps"] for line in lines] == so_far
    assert not any("feature_std" in line for line in skipped)


def interrupted(tracker, folder):
    """A run that is killed after the checkpoint of step 5, and resumed."""
    os.chdir(folder / "work")
    config = {"tracker": tracker, "log_every": 1, "evaluate_every": 0}
    with pytest.MonkeyPatch.context() as patch:
        kill(patch, "step", 7)
        with pytest.raises(Killed):
            effssl.pretrain(tiny(folder, **config))
    AcceleratorState._reset_state(reset_partial_state=True)
    effssl.pretrain(tiny(folder, resume=True, **config))


def track(tracker, tmp_path):
    """An interrupted run with a tracker, offline, in a home of its own.

    Returns:
        The files in the home and in the working directory.
    """
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir(), work.mkdir()
    environment = {
        **{"HOME": str(home), "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": ""},
        **{"TRACKIO_DIR": str(tmp_path / "trackio"), "WANDB_MODE": "offline", "NO_PROXY": "*"},
    }
    Forked(tmp_path / "log", interrupted, tracker, tmp_path, environment=environment).result()
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 11))
    files = [f.relative_to(tmp_path) for d in (home, work) for f in d.rglob("*") if f.is_file()]
    return [str(file) for file in files]


def tracker_id(run):
    return load_checkpoint(run)["tracker_id"]


def test_tensorboard_has_every_step_once_after_a_resume(tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    assert track("tensorboard", tmp_path) == []
    events = event_accumulator.EventAccumulator(str(tmp_path / "run" / "effssl"))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("loss")}
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 11))
    expected = {line["step"]: line["loss"] for line in metrics(tmp_path / "run")}
    assert losses == pytest.approx(expected, rel=1e-6)
    assert {"grad_norm", "feature_std", "projection_rank", "lr"} <= set(events.Tags()["scalars"])


def test_trackio_goes_on_in_the_same_run(tmp_path):
    pytest.importorskip("trackio")
    assert track("trackio", tmp_path) == []
    with sqlite3.connect(tmp_path / "trackio" / "effssl.db") as database:
        rows = database.execute("select run_name, run_id, step, metrics from metrics").fetchall()
    database.close()
    assert {name for name, *_ in rows} == {f"run-{tracker_id(tmp_path / 'run')[:6]}"}
    assert len({run for _, run, *_ in rows}) == 1
    # trackio takes nothing back: steps 6 and 7, after the checkpoint, stand there twice
    assert sorted({step for *_, step, _ in rows}) == list(range(1, 11))
    last = json.loads(rows[-1][-1])
    assert last["loss"] == pytest.approx(metrics(tmp_path / "run")[-1]["loss"])


def test_wandb_goes_on_under_the_same_id(tmp_path):
    pytest.importorskip("wandb")
    files = track("wandb", tmp_path)
    assert all(file.startswith("home/.cache/wandb/logs/") for file in files)  # its own log
    folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2  # what wandb sync joins by their id
    assert {f.name.rpartition("-")[2] for f in folders} == {tracker_id(tmp_path / "run")}
    assert all(list(folder.glob("run-*.wandb")) for folder in folders)

"""A batch that broken images leave with too few for a loss is skipped and counted; the run goes on.

Every process skips it, and steps, schedule, checkpoints, resumes and evaluations stay as they are.
"""

import numpy as np
import pytest
import torch
from forked import launch, results
from PIL import Image
from runs import TINY, Killed, assert_equal, kill, metrics, state, steps_of_checkpoints

import effssl
from effssl import PretrainConfig, cli
from effssl.data._loader import BatchShard, EpochBatches
from effssl.hub._folder import read_training
from effssl.training import loop
from effssl.training._checkpoint import load_checkpoint

BASE = TINY | {
    "split": "train",
    "batch_size": 2,
    "epochs": 1,
    "log_every": 1,
    "checkpoint_steps": 1,
}


def photos(folder, count, batch_size, broken):
    """Images of noise; those at some places of the batches of the first epoch are broken.

    Args:
        broken: Numbers of places, by step from 1.
    """
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (count, 9, 9), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    batches = list(EpochBatches(count, BatchShard(batch_size), 0))
    for step, places in broken.items():
        for place in places:
            (folder / f"{batches[step - 1][place]:03}.png").write_bytes(b"to be done")
    return str(folder)


def config(tmp_path, data, name="run", **changes):
    output = str(tmp_path / name)
    return PretrainConfig(**(BASE | {"dataset": data, "output": output} | changes))


def test_one_broken_image_among_120_in_batches_of_two_does_not_end_a_run(tmp_path, caplog):
    data = photos(tmp_path / "photos", 120, 2, {7: [0]})
    folder = effssl.pretrain(config(tmp_path, data, evaluate_every=0))
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert [line["skipped_batches"] for line in lines] == [0] * 6 + [1] * 54
    assert [line["broken"] for line in lines] == [0] * 6 + [1] * 54
    assert all(line["skipped_steps"] == 0 for line in lines)
    skipped = lines[6]
    assert skipped["loss"] is None and "grad_norm" not in skipped and "invariance" not in skipped
    assert all(line["loss"] > 0 for line in lines if line is not skipped)
    rates = [line["lr"] for line in lines]
    assert len(set(rates[5:9])) == 4  # the schedule goes on
    (said,) = [r.getMessage() for r in caplog.records if " is skipped: " in r.getMessage()]
    assert said.startswith("step 7 is skipped: broken images left 1 of the 2 images of its batch")
    assert effssl.from_pretrained(folder)(torch.rand(2, 1, 32, 32)).isfinite().all()


@pytest.mark.parametrize("read", [{"cache_gb": 0.0, "workers": 0}, {"cache_gb": 0.0, "workers": 1}])
@pytest.mark.parametrize("places", [[0], [0, 1]])
def test_a_skipped_batch_changes_nothing_but_its_count(tmp_path, read, places):
    data = photos(tmp_path / "photos", 12, 2, {3: places})
    effssl.pretrain(
        config(tmp_path, data, evaluate_every=0, keep_checkpoints=9, max_broken=0.5, **read)
    )
    before, after = state(tmp_path / "run", 2), state(tmp_path / "run", 3)
    assert_equal(after["model"], before["model"])
    assert_equal(after["optimizer"]["state"], before["optimizer"]["state"])
    assert (before["skipped_batches"], after["skipped_batches"]) == (0, 1)
    last = state(tmp_path / "run", 6)["model"]
    assert not all(torch.equal(last[name], value) for name, value in after["model"].items())


@pytest.mark.parametrize("micro_batch", [None, 2, 1])
@pytest.mark.parametrize("streaming", [False, True])
def test_batches_of_micro_batches_without_images_are_skipped_too(tmp_path, micro_batch, streaming):
    """Of four images none, one and two are left; and chunks of one and of none."""
    broken = {1: [0, 1, 2, 3], 2: [0, 1, 2], 4: [1, 2], 5: [2, 3]}
    data = photos(tmp_path / "photos", 24, 4, broken)
    changes = {"batch_size": 4, "micro_batch": micro_batch, "max_broken": 0.5}
    effssl.pretrain(
        config(tmp_path, data, evaluate_every=0, streaming=streaming, workers=0, **changes)
    )
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 7))
    lost = [line["step"] for line in lines if line["loss"] is None]
    assert lines[-1]["skipped_batches"] == len(lost) and lines[-1]["broken"] == 11
    assert streaming or lost == [1, 2]
    weights = load_checkpoint(tmp_path / "run")["model"]
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize("last", [True, False], ids=["of the run", "of an epoch"])
def test_the_last_step_may_be_the_skipped_one(tmp_path, last, caplog):
    data = photos(tmp_path / "photos", 12, 2, {6: [1]})
    epochs = 1 if last else 2
    with caplog.at_level("INFO", logger="effssl"):
        folder = effssl.pretrain(
            config(tmp_path, data, epochs=epochs, evaluate_every=1, keep_checkpoints=20)
        )
    lines = metrics(tmp_path / "run")
    assert len(lines) == 6 * epochs and lines[5]["loss"] is None
    assert lines[5]["spectrum"]["features"]["images"] == 11 and lines[5]["epoch"] == 1
    assert steps_of_checkpoints(tmp_path / "run") == list(range(1, 6 * epochs + 1))
    said = [r.getMessage() for r in caplog.records]
    assert any(line.startswith(f"step 6 of {6 * epochs}: batch skipped, ") for line in said)
    model, saved = effssl.from_pretrained(folder), load_checkpoint(tmp_path / "run")["model"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("killed_at", [3, 4, 5])
def test_a_resume_after_or_before_a_skipped_batch_is_the_same_run(tmp_path, monkeypatch, killed_at):
    data = photos(tmp_path / "photos", 16, 2, {1: [0], 4: [0]})
    changes = {"evaluate_every": 0, "max_broken": 0.2, "epochs": 2}
    effssl.pretrain(config(tmp_path, data, "whole", **changes))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, "_save_checkpoint", killed_at)
        effssl.pretrain(config(tmp_path, data, "parts", **changes))
    effssl.pretrain(config(tmp_path, data, "parts", resume=True, **changes))
    whole, parts = (load_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    for key in ("model", "optimizer", "broken", "skipped_batches"):
        assert_equal(parts[key], whole[key], key)
    counts = [[x["skipped_batches"] for x in metrics(tmp_path / n)] for n in ("whole", "parts")]
    assert counts[0] == counts[1] and counts[0][:5] == [1, 1, 1, 2, 2]


def pretrain(arguments):
    torch.set_num_threads(1)
    cli.main(["pretrain", *arguments])


@pytest.mark.parametrize(
    "processes, batch_size, micro_batch, broken",
    [
        (2, 2, None, {2: [0], 3: [0, 1]}),  # which leaves one process, or none, with an image
        (2, 4, 2, {1: [0, 1, 2, 3], 2: [1, 2, 3], 3: [0, 2], 4: [0, 1]}),
        pytest.param(3, 3, None, {2: [0], 3: [0, 1], 4: [2]}, marks=pytest.mark.slow),
    ],
)
def test_all_processes_skip_the_same_batches(tmp_path, processes, batch_size, micro_batch, broken):
    data = photos(tmp_path / "photos", 4 * batch_size, batch_size, broken)
    found = []
    for count in (1, processes):
        one = config(
            tmp_path,
            data,
            f"run-{count}",
            batch_size=batch_size,
            micro_batch=micro_batch,
            max_broken=1.0,
            precision="fp64",
            optimizer="momentum",  # AdamW enlarges rounding
            evaluate_every=1,
        )
        results(launch(tmp_path / f"logs-{count}", count, pretrain, one.flags()))
        lines = metrics(tmp_path / f"run-{count}")
        found.append([[x[k] for x in lines] for k in ("step", "skipped_batches", "broken")])
        found[-1].append([x["loss"] is None for x in lines])
    assert found[0] == found[1] and found[0][0] == [1, 2, 3, 4] and found[0][1][-1] in (1, 2)
    alone, together = (load_checkpoint(tmp_path / f"run-{n}")["model"] for n in (1, processes))
    a, b = (torch.cat([x.flatten().double() for x in w.values()]) for w in (together, alone))
    assert (a - b).norm() <= 1e-9 * b.norm()


# what the record counts


def record_of(run):
    training = read_training(run / "model")
    return [training[name] for name in ("images", "images_seen", "views_seen")]


@pytest.mark.parametrize("read", [{}, {"cache_gb": 0.0, "workers": 0}])
def test_the_record_counts_the_images_that_were_trained_on(tmp_path, read):
    # step 2 has 7 images of 8, step 3 none and is skipped
    data = photos(tmp_path / "photos", 40, 8, {2: [1], 3: range(8)})
    options = {"batch_size": 8, "max_broken": 0.5, "evaluate_every": 0} | read
    effssl.pretrain(config(tmp_path, data, **options))
    assert record_of(tmp_path / "run") == [31, 8 + 7 + 8 + 8, 2 * 31]
    state_of = state(tmp_path / "run", 5)
    assert state_of["images_seen"] == 31
    effssl.pretrain(config(tmp_path, data, **options, resume=True))
    assert record_of(tmp_path / "run") == [31, 31, 62]


def test_broken_images_that_a_cache_knows_count_before_they_are_met(tmp_path):
    data = photos(tmp_path / "photos", 40, 8, {5: [0, 1]})
    effssl.pretrain(config(tmp_path, data, batch_size=8, max_broken=0.5, max_steps=1))
    assert record_of(tmp_path / "run") == [38, 8, 16]


def test_a_checkpoint_of_before_counts_the_images_of_its_steps(tmp_path, monkeypatch):
    data = photos(tmp_path / "photos", 40, 8, {})
    options = {"batch_size": 8, "evaluate_every": 0}
    effssl.pretrain(config(tmp_path, data, **options, max_steps=2))
    original = loop.open_run_folder

    def older(*arguments):
        saved = original(*arguments)
        del saved["images_seen"]
        return saved

    monkeypatch.setattr(loop, "open_run_folder", older)
    effssl.pretrain(config(tmp_path, data, **options, max_steps=4, resume=True))
    assert record_of(tmp_path / "run") == [40, 32, 64]


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_a_batch_with_fewer_images_than_its_loss_takes_is_skipped(tmp_path, micro_batch, caplog):
    data = photos(tmp_path / "photos", 32, 8, {2: [0, 2, 5, 7], 3: [1, 4, 6]})
    changes = {"loss": "wmse", "projector_dim": 4, "batch_size": 8, "micro_batch": micro_batch}
    effssl.pretrain(config(tmp_path, data, evaluate_every=0, max_broken=0.5, **changes))
    assert [x["step"] for x in metrics(tmp_path / "run") if x["loss"] is None] == [2]
    assert "broken images left 4 of the 8 images of its batch, and a loss needs 5" in caplog.text

"""Whether a run learns, in words and beside what the numbers can be."""

import copy
import json
import logging
import math
import os

import pytest
import torch
from forked import launch, results
from runs import Killed, kill, metrics, state, tiny

import effssl
from effssl import PretrainConfig
from effssl.hub._record_keys import COLUMNS
from effssl.training import _online_evaluation as online_evaluation
from effssl.training._learning import LossScale, of_knn, of_ranks
from effssl.training._metrics import read_history
from effssl.training._online_evaluation import OnlineEvaluation


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (180.24, "loss 180.2 of 256"),
        (240, "loss 240 of 256: nothing learned yet"),
        (435, "loss 435, above 256: nothing learned yet"),
        (math.nan, "loss nan"),
    ],
)
def test_a_loss_stands_beside_its_scale(loss, text):
    assert LossScale(PretrainConfig(projector_dim=256)).of_loss(loss) == text


def test_the_scale_follows_from_the_loss_the_width_and_the_weight():
    scale = LossScale(PretrainConfig(loss="vicreg", loss_weight=10.0, projector_dim=64))
    assert scale.of_loss(5) == "loss 5 of 9.9"
    parts = {"invariance": 0.1, "variance": 0.5, "own": 3.14159}
    assert scale.of_parts(parts) == "invariance 0.1 of 2, variance 0.5 of 0.99, own 3.14"
    assert LossScale(PretrainConfig(loss="spectral", projector_dim=64)).blank == 64
    local = {"loss": "sigreg", "views": 2, "local_views": 4, "img_size": 32, "local_size": 16}
    assert LossScale(PretrainConfig(**local)).of_parts({"invariance": 0.1}) == (
        "invariance 0.1 of 1.167"  # 1 - 1/2 for two views and 1 + 1/2 for four
    )
    every = LossScale(PretrainConfig(**local, local_pairs=True))
    assert every.of_parts({"invariance": 0.1}) == "invariance 0.1 of 0.8333"


def test_accuracy_stands_beside_that_of_the_start_and_ranks_beside_the_largest():
    assert of_knn(61.23, 54.0) == "k-NN 61.2 % (at the start 54.0 %)"
    assert of_knn(61.23, None) == "k-NN 61.2 %"
    signs = {"feature_rank": 12.4, "projection_rank": 23.0}
    assert of_ranks(signs, {"feature": 64, "projection": 127}) == (
        "effective rank of features 12 of at most 64, projections 23 of at most 127"
    )


def test_the_log_of_a_run_says_whether_it_learns(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="effssl"):
        effssl.pretrain(tiny(tmp_path, epochs=1, evaluate_every=1))
    assert sum("Barlow Twins is 16 where nothing is learned" in m for m in caplog.messages) == 1
    (line,) = metrics(tmp_path / "run")
    (said,) = [m for m in caplog.messages if m.startswith("step 5 of 5: loss ")]
    assert f"(invariance {line['invariance']:.3g} of 1, redundancy " in said
    assert f"k-NN {line['knn']:.1f} % (at the start {line['knn_start']:.1f} %)" in said
    assert f"features {line['feature_rank']:.0f} of at most 7, projections " in said


def test_the_accuracy_of_the_start_is_that_of_the_first_weights(tmp_path, monkeypatch):
    looks = []

    def measured(self, model, *more):
        looks.append((self(model, *more)["knn"], copy.deepcopy(model.state_dict())))
        return accuracy(self, model, *more)

    accuracy = OnlineEvaluation.accuracy
    monkeypatch.setattr(OnlineEvaluation, "accuracy", measured)
    data = {"split": "train[:200]", "batch_size": 100, "epochs": 1, "lr": 1e-2}
    effssl.pretrain(tiny(tmp_path, evaluate_every=1, checkpoint_steps=1, **data))
    ((knn, weights),) = looks
    assert metrics(tmp_path / "run")[-1]["knn_start"] == knn and 10 < knn < 100
    first = state(tmp_path / "run", 1)["model"]
    changed = [name for name, value in weights.items() if not torch.equal(value, first[name])]
    assert not weights["backbone.bn1.num_batches_tracked"] and changed


def test_measuring_at_the_start_changes_neither_weights_nor_losses(tmp_path, monkeypatch):
    found = []
    for measured in (True, False):
        if not measured:
            monkeypatch.setattr(OnlineEvaluation, "accuracy", lambda *_: None)
        folder = tmp_path / str(measured)
        effssl.pretrain(tiny(folder, log_every=1))
        lines = metrics(folder / "run")
        assert [x["step"] for x in lines if "knn_start" in x] == ([1, 5, 10] if measured else [])
        found.append((state(folder / "run", 10)["model"], [x["loss"] for x in lines]))
    (weights, losses), (others, other_losses) = found
    assert losses == other_losses
    assert all(torch.equal(value, others[name]) for name, value in weights.items())


def test_a_resumed_run_remembers_the_accuracy_of_its_start(tmp_path, monkeypatch):
    changes = {"log_every": 4, "checkpoint_steps": 3}
    effssl.pretrain(tiny(tmp_path / "whole", **changes))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, "step", 4, before=True)
        effssl.pretrain(tiny(tmp_path / "parts", **changes))
    calls = []
    monkeypatch.setattr(OnlineEvaluation, "accuracy", lambda *_: calls.append(1))
    effssl.pretrain(tiny(tmp_path / "parts", resume=True, **changes))
    assert not calls
    starts = [
        [(line["step"], line.get("knn_start")) for line in metrics(tmp_path / name / "run")]
        for name in ("whole", "parts")
    ]
    assert starts[0] == starts[1]
    assert [step for step, start in starts[0] if start is not None] == [4, 5, 10]


def test_a_checkpoint_of_an_earlier_version_resumes_without_it(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, "step", 6)
        effssl.pretrain(tiny(tmp_path, log_every=1))
    file = next((tmp_path / "run" / "checkpoints").glob("step_*/state.pt"))
    saved = torch.load(file, weights_only=True)
    del saved["knn_start"]
    torch.save(saved, file)
    effssl.pretrain(tiny(tmp_path, log_every=1, resume=True))
    last = metrics(tmp_path / "run")[-1]
    assert "knn" in last and "knn_start" not in last


def test_the_record_of_the_model_holds_the_start(tmp_path):
    effssl.pretrain(tiny(tmp_path, log_every=2))
    history = read_history(tmp_path / "run", 10)
    start = metrics(tmp_path / "run")[0]["knn_start"]
    assert [x for x in history["knn_start"] if x is not None] == [
        pytest.approx(start, abs=1e-2)
    ] * 3
    assert history.keys() <= COLUMNS  # or the model could not be published
    training = json.loads((tmp_path / "run" / "model" / "training.json").read_text())
    assert training["history"]["knn_start"] == history["knn_start"]


def test_without_labels_nothing_is_measured_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(OnlineEvaluation, "_measured", lambda *_: pytest.fail("measured"))
    look = OnlineEvaluation.__new__(OnlineEvaluation)
    look.labels = None
    assert look.accuracy(None, None) is None


def measured_start(folder):
    online_evaluation.IMAGES = 600
    output = effssl.pretrain(tiny(folder, split="train[:600]", max_steps=2, batch_size=16))
    if os.environ.get("RANK", "0") == "0":
        return [line["knn_start"] for line in metrics(output.parent)]
    return None


def test_processes_measure_the_same_start_together(tmp_path):
    (alone,) = results(launch(tmp_path / "logs", 1, measured_start, tmp_path / "1"))
    assert len(alone) == 1
    for processes in (2, 4):
        logs, run = tmp_path / f"logs {processes}", tmp_path / f"{processes}"
        first, *others = results(launch(logs, processes, measured_start, run))
        assert first == alone and others == [None] * (processes - 1)

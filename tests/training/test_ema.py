"""The moving average of the weights: what it is, where it goes, and that nothing else changes."""

import dataclasses
import json
import math

import pytest
import torch
from runs import Killed, assert_equal, kill, metrics, state, tiny
from safetensors.torch import load_file
from test_processes import EXACT, difference, started
from torch import nn

import effssl
from effssl import PretrainConfig
from effssl.hub._card import compose_card
from effssl.hub._publishable import check_publishable
from effssl.training import loop
from effssl.training._checkpoint import load_checkpoint
from effssl.training._ema import AveragedWeights
from effssl.training._online_evaluation import OnlineEvaluation

EMA = {"ema": 0.9, "checkpoint_steps": 1, "keep_checkpoints": 99, "log_every": 1}


def expected(states, decay=0.9):
    """The average of the weights after each step, in the order of the steps, by its formula."""
    average = None
    for n, weights in enumerate(states, 1):
        now = min(decay, (n - 1) / (n + 9))
        floats = {k: v.double() for k, v in weights.items() if v.is_floating_point()}
        average = average or floats
        average = {k: now * average[k] + (1 - now) * floats[k] for k in floats}
    return average


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = tiny(tmp_path_factory.mktemp("ema"), **EMA)
    effssl.pretrain(config)
    return config.run_folder


def test_checkpoints_have_the_average_of_the_weights_after_every_step(run):
    states = [state(run, step)["model"] for step in range(1, 11)]
    for step in (1, 2, 10):
        found = state(run, step)["average"]
        assert found["updates"] == step
        for name, value in expected(states[:step]).items():
            torch.testing.assert_close(found["model"][name].double(), value, rtol=1e-5, atol=1e-6)
    counts = {k: v for k, v in states[-1].items() if not v.is_floating_point()}
    assert counts and all(torch.equal(found["model"][k], v) for k, v in counts.items())


def test_the_average_is_what_is_published_and_the_card_says_so(run):
    saved = state(run, 10)
    published = load_file(run / "model" / "model.safetensors")
    for name, value in published.items():
        assert torch.equal(value, saved["average"]["model"][f"backbone.{name}"])
    differ = [
        n for n, v in published.items() if not torch.equal(v, saved["model"][f"backbone.{n}"])
    ]
    assert differ
    assert json.loads((run / "model" / "training.json").read_text())["config"]["ema"] == 0.9
    check_publishable(run / "model", run / "model")
    card = compose_card(run / "model", "org/name")
    assert "exponential moving average over the steps, decay 0.9" in card and "--ema 0.9" in card


def test_the_weights_themselves_are_those_of_a_run_without_it(run, tmp_path):
    config = tiny(tmp_path, checkpoint_steps=1, log_every=1)
    effssl.pretrain(config)
    plain = state(config.run_folder, 10)
    assert "average" not in plain
    assert_equal(plain["model"], state(run, 10)["model"])
    assert [x["loss"] for x in metrics(run)] == [x["loss"] for x in metrics(config.run_folder)]


def test_evaluations_during_the_run_see_the_average(tmp_path, monkeypatch):
    seen = []

    def noted(self, model, *more):
        seen.append(({k: v.clone() for k, v in model.state_dict().items()}, model.training))
        return {}

    monkeypatch.setattr(OnlineEvaluation, "__call__", noted)
    config = tiny(tmp_path, **EMA)
    effssl.pretrain(config)
    assert_equal(seen[-1][0], dict(state(config.run_folder, 10)["average"]["model"]))


def test_a_resumed_run_ends_with_the_same_bits(run, tmp_path, monkeypatch):
    config = tiny(tmp_path, **EMA)
    with monkeypatch.context() as patch:
        kill(patch, "step", 4)
        with pytest.raises(Killed):
            effssl.pretrain(config)
    resumed = dataclasses.replace(config, resume=True)
    with pytest.raises(ValueError, match="ema was 0.9, is None"):
        effssl.pretrain(dataclasses.replace(resumed, ema=None))
    effssl.pretrain(resumed)
    assert_equal(state(config.run_folder, 10)["average"], state(run, 10)["average"])
    for name in ("model.safetensors", "projector.safetensors"):
        one, other = (f / "model" / name for f in (config.run_folder, run))
        assert one.read_bytes() == other.read_bytes()


def test_a_model_folder_that_a_kill_left_behind_is_made_of_the_average(run, tmp_path, monkeypatch):
    config = tiny(tmp_path, **EMA)
    with monkeypatch.context() as patch:
        kill(patch, "_save_model", 10, before=True)
        with pytest.raises(Killed):
            effssl.pretrain(config)
    effssl.pretrain(dataclasses.replace(config, resume=True))
    one, other = (f / "model" / "model.safetensors" for f in (config.run_folder, run))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_any_number_of_processes_ends_with_the_same_average(tmp_path):
    averages = []
    for count in (1, 2, 4):
        changes = {"ema": "0.9", "split": "train[:48]", "epochs": "1"}
        with started(tmp_path / f"of-{count}", count, **changes) as forks:
            for fork in forks:
                fork.result()
        averages.append(load_checkpoint(tmp_path / f"of-{count}")["average"]["model"])
    assert max(difference(average, averages[0]) for average in averages) < EXACT


def test_skipped_steps_are_not_averaged(tmp_path, monkeypatch):
    original = loop._Run._read

    def broken(self, output, norm):
        loss, *others = original(self, output, norm)
        return [math.nan if self.state.step == 2 else loss, *others]

    monkeypatch.setattr(loop._Run, "_read", broken)
    config = tiny(tmp_path, **EMA)
    effssl.pretrain(config)
    saved = state(config.run_folder, 10)
    assert saved["average"]["updates"] == 9
    states = [state(config.run_folder, step)["model"] for step in (1, 2, *range(4, 11))]
    for name, value in expected(states).items():
        torch.testing.assert_close(
            saved["average"]["model"][name].double(), value, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_a_run_shorter_than_the_decay_forgets_the_initial_weights(steps):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1e6)  # where training starts
    average = AveragedWeights(model, 0.9999, torch.device("cpu"))
    for step in range(1, steps + 1):
        nn.init.constant_(model.weight, step)
        average.update(model)
    assert 0.85 * steps - 1 <= average.model.weight.item() <= steps


def test_the_decay_is_a_share():
    for ema in (-0.1, 1.0):
        with pytest.raises(ValueError, match="ema must be 0 to 0.999999"):
            PretrainConfig(ema=ema)

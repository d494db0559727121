"""Every loss in a run: processes, chunks and a resume change nothing, drawn numbers included."""

import importlib
import json

import pytest
from runs import EVERY_STEP, check_resumed, tiny
from test_processes import EXACT, difference, train

import effssl
from effssl.hub._publishable import check_publishable
from effssl.loss_specs import LOSSES

OTHERS = [name for name in LOSSES if name not in ("bt", "vicreg", "spectral")]


@pytest.mark.parametrize("loss", OTHERS)
@pytest.mark.parametrize("changes", [{}, {"micro_batch": "4"}], ids=["whole", "chunks"])
def test_processes_end_with_the_weights_of_one(tmp_path, loss, changes):
    changes = {
        "max_steps": "4",
        "projector_dim": "2",
        "loss": loss,
    } | changes  # two sub-batches of W-MSE
    alone, together = (train(tmp_path / str(count), count, **changes) for count in (1, 3))
    found = difference(together, alone)
    print(f"{loss}, 3 processes against 1, 4 steps: {found:.1e}")
    assert found <= EXACT


@pytest.mark.parametrize("loss", OTHERS)
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, loss):
    options = EVERY_STEP | {"loss": loss, "projector_dim": 4}
    check_resumed(tmp_path, monkeypatch, options)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_with_any_loss_may_be_published(tmp_path, loss):
    model = effssl.pretrain(tiny(tmp_path, loss=loss, projector_dim=4, max_steps=1, log_every=1))
    history = json.loads((model / "training.json").read_text())["history"]
    assert LOSSES[loss].parts.keys() <= history.keys()
    check_publishable(model, model)


def test_what_a_loss_draws_is_new_in_each_step_and_for_each_seed(tmp_path, monkeypatch):
    module = importlib.import_module("effssl.losses.sigreg")  # the name is that of the function too
    original, seeds = module.sigreg, []

    def watched(z, *, generator=None, **options):
        seeds.append(generator.initial_seed())
        return original(z, generator=generator, **options)

    monkeypatch.setattr(module, "sigreg", watched)
    for seed in (0, 1):
        options = {"loss": "sigreg", "projector_dim": 4, "max_steps": 3, "seed": seed}
        effssl.pretrain(tiny(tmp_path / str(seed), **options))
    assert len(set(seeds)) == len(seeds) == 6

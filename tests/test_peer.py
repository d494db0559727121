"""examples/reproduce/peer.py: a run of lightly is made once and measured as effssl's runs are."""

import dataclasses
import importlib
import importlib.util
import shlex
from pathlib import Path

import pytest
import torch
import tyro
from tiny_scale import tiny_reference

import effssl
from effssl.data import load_source


@pytest.fixture
def peer(reproduce):
    return importlib.import_module("peer")


@pytest.fixture
def tiny(peer, reproduce, tmp_path, monkeypatch):
    """Returns the rows of runs on 60 + 30 images; keyword arguments are the options."""
    monkeypatch.chdir(tmp_path)
    reference = tiny_reference(tmp_path / "data")
    scale = reproduce.experiments.Scale(reference, 60, "test", 20)
    held_out = dataclasses.replace(reference, split="train[:40]")
    choice = dataclasses.replace(
        scale, reference=held_out, train_split="train[:40]", test_split="train[40:]"
    )
    monkeypatch.setattr(peer, "PARTS", {"cpu": scale, "choice": choice})
    monkeypatch.setattr(peer, "GRID", {"lr": (2e-3, 1e-3), "width": (8, 4)})
    results = tmp_path / "results.csv"

    def run(**options):
        peer.main(peer.Options(results=results, **options))
        return reproduce.run.read_results(results)

    return run


def test_a_run_of_lightly_fills_its_row_and_is_made_once(peer, reproduce, tiny, capsys):
    pytest.importorskip("lightly.loss")
    recipe = peer.Recipe("adamw", 2e-3, 0.2, 8)
    (row,) = rows = tiny(epochs=(2,), seeds=(0,), recipe=recipe)
    too_few = {"10-shot", "k-NN 200"}  # of 60 images
    empty = {name for name in reproduce.run.COLUMNS if not row[name]}
    assert empty - {"commit"} <= too_few  # there may be no git
    assert row["model"] == "test_resnet-lightly-p8" and row["encoder"] == "lightly"
    assert (row["images"], row["epochs"], row["steps"], row["views_seen"]) == (
        *("60", "2.0", "6", "240"),
    )
    assert row["command"] in capsys.readouterr().out
    assert tiny(epochs=(2,), seeds=(0,), recipe=recipe) == rows
    assert row["command"] not in capsys.readouterr().out
    again = dict.fromkeys(row, "") | {name: row[name] for name in reproduce.run.KEY}
    pretrained = again | {"encoder": "pretrained"}
    file = Path("other.csv")
    reproduce.run.add_results([again, again | {"encoder": "supervised"}, pretrained], file)
    order = [row["encoder"] for row in reproduce.run.read_results(file)]
    assert order == ["pretrained", "supervised", "lightly"]


def test_a_run_of_a_seed_is_the_same_again_and_begins_with_the_weights_of_effssl(
    peer, reproduce, tiny
):
    pytest.importorskip("lightly.loss")
    part = peer.PARTS["cpu"]
    recipe = peer.Recipe("adamw", 2e-3, 0.2, 8)

    def weights(epochs):
        torch.manual_seed(3)  # what was drawn before makes no difference
        model = peer.first_model(part, 1)
        if epochs:
            peer.train(peer.Run("cpu", recipe, epochs, 1), part, model)
        return torch.cat([value.flatten() for value in model.backbone.parameters()])

    config = dataclasses.replace(part.reference, seed=1)
    model = effssl.create_model("test_resnet", in_chans=1, img_size=32)
    twin = reproduce.run.random_twin(model, config.seed)
    first = torch.cat([value.flatten() for value in twin.parameters()])
    torch.testing.assert_close(weights(0), first, rtol=0, atol=0)
    once = weights(1)
    assert not torch.equal(once, first)
    torch.testing.assert_close(once, weights(1), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_every_optimizer_decays_weights_and_trains(peer, tiny, optimizer):
    pytest.importorskip("lightly.loss")
    recipe = peer.Recipe(optimizer, 1e-3, 0.2, 8)
    model = peer.first_model(peer.PARTS["cpu"], 0)
    before = [value.clone() for value in model.backbone.parameters()]
    steps, minutes = peer.train(peer.Run("cpu", recipe, 1, 0), peer.PARTS["cpu"], model)
    assert steps == 3 and minutes > 0
    assert any(
        not torch.equal(a, b) for a, b in zip(before, model.backbone.parameters(), strict=True)
    )
    optimizer = peer.optimizer_of(recipe, model, 0.05)
    assert max(group["weight_decay"] for group in optimizer.param_groups) > 0


def test_the_views_of_lightly_are_gray_and_show_no_less_than_the_crop(peer):
    pytest.importorskip("lightly.transforms")
    source = load_source("fashion-mnist-sample", "train[:8]", in_chans=1)
    pictures = peer.Pictures(source, peer.create_views(32, peer.Recipe(crop=0.5), [0.5], [0.5]))
    first, second = pictures[3]
    assert first.shape == second.shape == (1, 32, 32) and not torch.equal(first, second)
    assert -1 <= first.min() < first.max() <= 1 and len(pictures) == 8
    crops = [view.transform.transforms[0].scale for view in pictures.transform.transforms]
    assert crops == [(0.5, 1.0)] * 2


def test_a_command_in_a_row_makes_the_same_run_again(peer):
    for run in (
        peer.Run("cpu", peer.Recipe("sgd", 0.06, 0.4, 512), 8, 2),
        peer.Run("choice", peer.Recipe("adamw", 5e-4, 0.08, 2048), 2, 0, workers=2),
    ):
        words = shlex.split(run.command)
        assert words[:2] == ["python", "examples/reproduce/peer.py"]
        assert tyro.cli(peer.Options, args=words[2:]).runs() == [run]
    assert len(peer.Options().runs()) == 12


def test_the_choice_takes_the_best_of_each_setting_in_turn(peer, monkeypatch, tmp_path):
    best = peer.Recipe("adamw", 1e-3, 0.4, 512)

    def row_of(run, results, wait):
        assert wait and (run.scale, run.epochs, run.seed) == ("choice", 3, 0)
        if run.recipe.optimizer == "lars":
            return None  # the loss was not finite
        tried.append(run.recipe)
        same = sum(
            a == b for a, b in zip(vars(run.recipe).values(), vars(best).values(), strict=True)
        )
        return {"linear": str(50 + same)}

    tried = []
    monkeypatch.setattr(peer, "row_of", row_of)
    assert peer.choose(3, tmp_path / "results.csv", 0) == best
    assert len(set(tried)) == 4 + 4 + 1 + 1 + 4 + 1


def test_the_choice_reads_no_test_image_and_goes_on_where_it_was(peer, tiny, capsys, monkeypatch):
    pytest.importorskip("lightly.loss")
    rows = tiny(choose=1)
    assert len(rows) == 2 + 2 + 2 and {row["scale"] for row in rows} == {"choice"}
    assert {row["images"] for row in rows} == {"40"}
    assert "chosen: Recipe(" in capsys.readouterr().out
    monkeypatch.setattr(peer, "result_of", lambda run: pytest.fail("made again"))
    assert tiny(choose=1) == rows


def test_without_lightly_or_with_another_version_one_line_says_so(peer, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="lightly 1.6.0, which is not installed: pip install"):
        peer.main(peer.Options())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "found")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.7.0")
    with pytest.raises(ValueError, match="lightly 1.6.0, which is here as 1.7.0: pip install"):
        peer.main(peer.Options())


def test_a_run_of_another_copy_and_one_that_diverges_are_passed_over(
    peer, reproduce, tiny, capsys, monkeypatch
):
    pytest.importorskip("lightly.loss")

    def diverge(run):
        assert tiny(epochs=(1,), seeds=(0,)) == []  # as a copy that is started meanwhile
        assert f"another copy of this command is running {run.command}" in capsys.readouterr().out
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(peer, "result_of", diverge)
    assert tiny(epochs=(1,), seeds=(0,)) == []
    assert "left out: the loss is nan" in capsys.readouterr().out

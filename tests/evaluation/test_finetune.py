"""finetune: a plain timm model learns, the given one stays, processes agree, bad input is named."""

import copy
import dataclasses
import importlib

import pytest
import torch
from forked import launch, results

import effssl
from effssl.data import load_source
from effssl.evaluation import finetune
from effssl.evaluation.features import extract_readable
from effssl.evaluation.finetune import _share_of_classes, default_epochs, tuning_plan

module = importlib.import_module("effssl.evaluation.finetune")  # its function has the same name


def net():
    torch.manual_seed(0)
    model = effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=8)
    model.set_input(32, (0.5,), (0.5,))
    return model.eval().requires_grad_(False)


def sources(train=120, test=80):
    return (
        load_source(split=f"train[:{train}]", in_chans=1),
        load_source(split=f"test[:{test}]", in_chans=1),
    )


def tuned(epochs=3, batch_size=30, layer_decay=None, **more):
    """What the classifier of a small run says of the test images."""
    scores = []

    def extract(*arguments, **options):
        found = extract_readable(*arguments, **options)
        scores.append(found[0])
        return found

    module.extract_readable = extract
    options = {"epochs": epochs, "batch_size": batch_size, "layer_decay": layer_decay}
    found = finetune(net(), *sources(), **options, **more)
    module.extract_readable = extract_readable
    assert found.top1 == pytest.approx(
        100 * (scores[0].argmax(1) == torch.tensor(sources()[1].labels())).double().mean().item()
    )
    return scores[0]


def test_it_learns_and_leaves_the_model_as_it_was():
    model = net()
    before = copy.deepcopy(model.state_dict())
    found = finetune(model, *sources(600, 200), epochs=6, lr=3e-3)
    assert found.top1 > 35 and found.top5 > found.top1  # of ten classes
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_seed_decides_and_nothing_else():
    first = tuned()
    torch.manual_seed(7)
    assert torch.equal(tuned(), first)
    assert not torch.equal(tuned(epochs=2), first)


@pytest.mark.parametrize("cached", [False, True])
def test_processes_that_decode_change_nothing(monkeypatch, cached):
    if not cached:
        monkeypatch.setattr(module, "cache_images", lambda *arguments, **options: None)
    assert torch.equal(tuned(1, workers=2), tuned(1, workers=0))


def test_precisions_differ_by_rounding():
    exact = tuned(1)  # auto, which on a CPU is float32
    assert torch.equal(tuned(1, precision="fp32"), exact)
    difference = (tuned(1, precision="bf16") - exact).norm() / exact.norm()
    assert 1e-3 < difference < 0.3
    with pytest.raises(
        ValueError, match="unknown precision 'fp8'; precisions are auto, fp32, bf16"
    ):
        tuned(1, precision="fp8")


def test_processes_share_the_batches(tmp_path):
    alone = tuned(2)
    assert (tuned(2, batch_size=15) - alone).norm() > 0.5 * alone.norm()
    for found in results(launch(tmp_path, 2, tuned, 2)):
        assert (found - alone).norm() < 0.02 * alone.norm()  # AdamW enlarges rounding


def test_layer_decay_changes_what_is_learned_and_epochs_follow_the_share():
    assert [default_epochs(share, 200) for share in (1.0, 0.1, 0.01)] == [3, 9, 30]
    assert (tuned(layer_decay=0.1) - tuned()).norm() > 0.01 * tuned().norm()


@pytest.mark.parametrize("share, epochs", [(1.0, None), (0.1, None), (1.0, 2)])
def test_the_default_takes_100_steps_and_the_plan_is_what_is_done(monkeypatch, share, epochs):
    steps = []
    monkeypatch.setattr(module, "_train", lambda *arguments: steps.append(arguments[-1].total))
    train, test = sources(150, 40)
    labels = torch.tensor(train.labels())
    planned, total = tuning_plan(labels, share, epochs)
    finetune(net(), train, test, share=share, epochs=epochs)
    assert steps == [total] and planned == (epochs or planned)
    assert (total >= 100) == (epochs is None)
    # of many images it is as it was
    labels = torch.arange(10_000) % 10
    plans = [tuning_plan(labels, share, None) for share in (1.0, 0.1, 0.01)]
    assert plans == [(3, 468), (9, 135), (30, 120)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_precisions_are_trained_in_float32(dtype):
    assert finetune(net().to(dtype), *sources(40, 40), epochs=1).confusion.sum() == 40


def test_a_share_is_of_every_class():
    labels = torch.tensor([0] * 200 + [1] * 20 + [2])
    rows = _share_of_classes(labels, 0.1, seed=0)
    assert labels[rows].bincount().tolist() == [20, 2, 1] and rows.diff().min() > 0
    assert not torch.equal(rows, _share_of_classes(labels, 0.1, seed=1))
    assert len(_share_of_classes(labels, 1.0, seed=0)) == 221


def test_bad_input_is_one_line():
    train, test = sources(40, 40)
    for share in (0, 1.5):
        with pytest.raises(ValueError, match=f"at most 1, got {share}"):
            finetune(net(), train, test, share=share)
    with pytest.raises(ValueError, match="epochs of fine-tuning must be 1 or more, got 0"):
        finetune(net(), train, test, epochs=0)
    with pytest.raises(ValueError, match="no label column"):
        finetune(net(), dataclasses.replace(train, label_column=None), test)
    one = dataclasses.replace(train, dataset=train.dataset.select([0]))
    with pytest.raises(ValueError, match="all 1 images of train are of class 9"):
        finetune(net(), one, test)
    with pytest.raises(FloatingPointError, match="the loss of fine-tuning is .* lower lr 1e\\+30"):
        finetune(net(), train, test, lr=1e30, epochs=3)

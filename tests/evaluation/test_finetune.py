"""finetune: a plain timm model learns, the given one stays, processes agree, bad input is named."""

import copy
import dataclasses

import pytest
import torch
from forked import launch, results

import effssl
from effssl.data import load_source
from effssl.evaluation import finetune
from effssl.evaluation.finetune import _share_of_classes, default_epochs


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


def tuned(epochs=3, batch_size=30):
    """Confusion of a small run."""
    found = finetune(net(), *sources(), epochs=epochs, batch_size=batch_size)
    return found.confusion


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


def test_processes_share_the_batches(tmp_path):
    alone = tuned(1, 30)
    for found in results(launch(tmp_path, 2, tuned, 1, 30)):
        # float32 in another order changes a guess or two
        assert (found - alone).abs().sum() <= 4 and found.sum() == alone.sum()


def test_layer_decay_and_epochs():
    assert [default_epochs(share) for share in (1.0, 0.1, 0.01)] == [4, 13, 40]
    plain = finetune(net(), *sources(40, 40), epochs=1)
    decayed = finetune(net(), *sources(40, 40), epochs=1, layer_decay=0.1)
    assert plain.confusion.sum() == decayed.confusion.sum() == 40


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
    with pytest.raises(ValueError, match="no label column"):
        finetune(net(), dataclasses.replace(train, label_column=None), test)
    one = dataclasses.replace(train, dataset=train.dataset.select([0]))
    with pytest.raises(ValueError, match="all 1 images of train are of class 9"):
        finetune(net(), one, test)
    with pytest.raises(FloatingPointError, match="the loss of fine-tuning is .* lower lr 1e\\+30"):
        finetune(net(), train, test, lr=1e30, epochs=3)

"""Evaluation on a GPU that is not there: every protocol runs, and the host rarely waits."""

from collections import Counter
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from fake_cuda import FakeCuda
from fake_machine import pretend
from torch import nn

import effssl
from effssl.data import _cache as cache
from effssl.data import load_source
from effssl.data._loader import DecodedImages
from effssl.evaluation import PROTOCOLS, evaluate, extract_features, extract_views, finetune
from effssl.training._online_evaluation import OnlineEvaluation

CUDA = torch.device("cuda", 0)
BF16 = {torch.bfloat16}


def _apply(module, function, recurse=True):
    """`nn.Module._apply` with new parameters: those without data cannot be given other data."""
    for child in module.children():
        child._apply(function)
    for name, p in module._parameters.items():
        if p is not None:
            new = function(p.detach())
            module._parameters[name] = nn.Parameter(new, p.requires_grad)
    for name, b in module._buffers.items():
        if b is not None:
            module._buffers[name] = function(b)
    return module


@contextmanager
def on_cuda():
    with FakeCuda() as gpu, pretend(gpu), mock.patch.object(nn.Module, "_apply", _apply):
        yield gpu


def net(device=CUDA):
    torch.manual_seed(0)
    model = effssl.create_model("test_resnet", in_chans=1, img_size=32, projector_dim=8)
    model.set_input(32, (0.5,), (0.5,))
    return model.eval().to(device)


def images(split="train[:96]"):
    return load_source(split=split, in_chans=1)


def types(cost):
    """In which convolutions were computed."""
    return {launch.dtype for launch in cost.launches if launch.name == "convolution"}


def blocking(cost):
    """Places of blocking copies, but for those of the views."""
    return Counter(place for place in cost.blocking if not place.startswith("views/"))


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_an_extraction_waits_once_a_batch_and_its_copies_do_not_block(precision):
    options = {"batch_size": 16} | ({} if precision == "fp32" else {"precision": precision})
    with on_cuda() as gpu:
        model = net()
        with gpu.measured() as cost:
            features = extract_features(model, images(), **options)
    assert features.shape == (96, 96) and features.device.type == "cpu"
    assert features.dtype == torch.float32
    assert types(cost) == ({torch.float32} if precision == "fp32" else BF16)
    assert len(cost.waits) == 6 and all(wait.startswith("to cpu") for wait in cost.waits)
    assert cost.copies and not cost.blocking


def test_an_extraction_of_views_waits_once_a_batch():
    views = effssl.MultiView("grey", views=3, size=32)
    with on_cuda() as gpu:
        model = net()
        with gpu.measured() as cost:
            found = extract_views(model, images(), views, batch_size=16, precision="bf16")
    assert found.shape == (3, 96, 96) and types(cost) == BF16
    assert len(cost.waits) == 6 and not blocking(cost)


def tuning(epochs, **options):
    with on_cuda() as gpu:
        model, data = net(), (images("train[:48]"), images("test[:32]"))
        with gpu.measured() as cost:
            found = finetune(model, *data, epochs=epochs, batch_size=12, **options)
    assert found.confusion.sum() == 32
    return cost


@pytest.mark.parametrize("precision", ["fp32", "auto", "fp16"])
def test_fine_tuning_waits_once_an_epoch(precision):
    options = {} if precision == "auto" else {"precision": precision}
    few, many = (tuning(epochs, **options) for epochs in (1, 2))
    more = Counter(many.waits) - Counter(few.waits)
    assert sum(more.values()) == 1 and next(iter(more)).startswith("tolist evaluation/finetune.py")
    assert not blocking(many) - blocking(few)
    wanted = {"fp32": torch.float32, "auto": torch.bfloat16, "fp16": torch.float16}
    assert types(many) == {wanted[precision]}


# waits that an encoder, or a fine-tuning, costs at most beside those for batches
@pytest.mark.parametrize(
    "protocol, most",
    [("knn", 20), ("linear", 50), ("fewshot", 50), ("finetune", 100), ("spectrum", 15)],
)
def test_every_protocol_runs_and_rarely_waits(protocol, most):
    options = {"protocols": [protocol], "seeds": (0,), "epochs": 1, "preset": "grey"}
    with on_cuda() as gpu:
        model = net()
        with gpu.measured() as cost:
            found = evaluate(model, images(), images("test[:64]"), shares=(1.0,), **options)
    assert found.precision == "bf16" and types(cost) == BF16
    assert all("backbone in bf16" in sentence for sentence in found.protocols.values())
    encoders = max(1, len(found.accuracy))
    assert 0 < len(cost.waits) <= most * encoders, Counter(cost.waits)


def test_every_protocol_is_among_those_that_run():
    assert set(PROTOCOLS) == {"knn", "linear", "fewshot", "finetune", "spectrum"}


@pytest.mark.parametrize("cached", [False, True])
def test_a_look_during_a_run_waits_for_features_and_projections_alone(
    tmp_path, monkeypatch, cached
):
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path))
    source = images("train[:600]")  # three batches
    with on_cuda() as gpu:
        decoded = DecodedImages(source, 37)
        if cached:
            decoded = cache.cache_images(source, 37, max_bytes=1e9, workers=0)
            assert decoded.to_device(CUDA)
        look = OnlineEvaluation(source, decoded, 0, labeled=True)
        model = net().train()
        with gpu.measured() as cost:
            found = look(model, CUDA, lambda: torch.autocast("cuda", torch.bfloat16))
    assert found["spectrum"].keys() == {"features", "projections"} and "knn" in found
    assert model.training and types(cost) == BF16
    assert len(cost.waits) == 2 and not cost.blocking

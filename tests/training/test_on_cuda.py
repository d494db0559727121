"""Whole runs on a GPU that is not there: they go through, and a step neither waits nor blocks."""

import pytest
import torch
from accelerate.state import AcceleratorState
from fake_cuda import FakeCuda
from fake_machine import one_of, pretend
from runs import TINY
from torch.optim.optimizer import register_optimizer_step_post_hook

import effssl
from effssl import MultiView, PretrainConfig
from effssl.training import _staging as staging
from effssl.views import _fallback as fallback

# what a step may ask of the host that writes no line of metrics: places that wait, and copies
WAITS, COPIES = 1, 4
VIEW_KERNELS = 150  # for all views of a step

ON_GPU = {"cpu": False, "max_steps": 4, "log_every": 100, "evaluate_every": 0, "precision": "bf16"}


def train(tmp_path, *, float64=True, **changes):
    """Pretrain on a fake GPU; return the device and a mark after each optimizer step."""
    config = TINY | ON_GPU | {"output": str(tmp_path / "run"), "epochs": 2} | changes
    marks = []
    with FakeCuda(float64=float64) as gpu, pretend(gpu):
        hook = register_optimizer_step_post_hook(lambda *arguments: marks.append(gpu.mark()))
        try:
            effssl.pretrain(PretrainConfig(**config))
        finally:
            hook.remove()
    return gpu, marks


def check_steady(gpu, marks):
    """The step from the second to the third update: no first one, no epoch's end, no metrics."""
    assert len(marks) >= 3
    (_, first_copy, first_wait), (_, copy, wait) = marks[1:3]
    waits = gpu.cost.waits[first_wait:wait]
    copies = gpu.cost.copies[first_copy:copy]
    blocking = [copy.place for copy in copies if copy.blocking]
    assert len(set(waits)) <= WAITS and len(waits) <= WAITS, waits
    assert len(copies) <= COPIES, sorted({copy.place for copy in copies})
    assert not blocking, blocking


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "bt", "views": 4},
        {"loss": "bt", "views": 3, "multiview": "mean", "optimizer": "lars"},
        {"loss": "vicreg", "precision": "fp32", "backbone": "test_vit", "img_size": 32},
        {"loss": "spectral", "precision": "fp16"},
        {"precision": "fp16", "optimizer": "lars", "grad_clip": 1.0},
        {"backbone": "test_convnext", "patch_size": 2, "in_chans": 3, "preset": "imagenet"},
        {"micro_batch": 4},
        {"micro_batch": 4, "precision": "fp16"},
        {"local_views": 6, "local_size": 16},
        {"local_views": 3, "local_size": 16, "micro_batch": 4, "loss": "vicreg"},
        {"streaming": True, "split": "test", "workers": 0},
        {"streaming": True, "split": "test", "workers": 2},
        {"deterministic": True},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()),
)
def test_a_step_waits_in_one_place_and_copies_without_blocking(tmp_path, changes):
    try:
        check_steady(*train(tmp_path, **changes))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view")  # of 1 x 1 kernels
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"micro_batch": 8},
        {"loss": "spectral", "batch_size": 20},
        {"local_views": 3, "local_size": 16},
    ],
)
def test_a_step_of_one_of_eight_processes_waits_and_copies_as_one_alone(tmp_path, changes):
    marks = []
    config = TINY | ON_GPU | {"output": str(tmp_path / "run"), "split": "train[:100]"} | changes
    with FakeCuda(value=0.5) as gpu, pretend(gpu), one_of(8, rank=3):  # no process asks to save
        hook = register_optimizer_step_post_hook(lambda *arguments: marks.append(gpu.mark()))
        try:
            effssl.pretrain(PretrainConfig(**config))
        finally:
            hook.remove()
    check_steady(gpu, marks)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])  # fp16 has a scaler, bf16 had none
def test_a_run_on_a_gpu_is_resumed(tmp_path, precision):
    whole = {"max_steps": None, "epochs": 1}
    train(tmp_path, **whole, max_minutes=1e-6)
    AcceleratorState._reset_state(reset_partial_state=True)  # as in another process
    gpu, marks = train(tmp_path, **whole, resume=True, precision=precision)
    assert len(marks) == 4  # of five steps the first was done before
    check_steady(gpu, marks)


@pytest.mark.parametrize("changes", [{}, {"micro_batch": 4}])
def test_a_step_on_a_device_without_float64(tmp_path, monkeypatch, changes):
    """As on MPS, which has none, nor the fused kernels and their plan on the device."""
    monkeypatch.setattr(staging, "_FUSED", "")
    monkeypatch.setattr(fallback, "try_fused", lambda *arguments, **more: None)
    _, marks = train(tmp_path, float64=False, precision="fp32", log_every=1, **changes)
    assert len(marks) == 4


@pytest.mark.parametrize("name", ["cifar", "stl", "imagenet", "grey", "multispectral"])
@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_made_on_the_gpu_in_few_kernels_that_nobody_waits_for(name, channels):
    multi_view = MultiView(name, views=8, size=32)
    with FakeCuda() as gpu, pretend(gpu):
        images = torch.empty(16, channels, 40, 48, dtype=torch.uint8, device="cuda")
        with gpu.measured() as cost:
            views = multi_view(images)
    assert views.shape == (8, 16, channels, 32, 32) and views.device.type == "cuda"
    assert not cost.waits and len(cost.copies) <= COPIES
    assert cost.kernels <= VIEW_KERNELS
    assert "crop" in {launch.name for launch in cost.launches}  # the fused kernels, no fallback

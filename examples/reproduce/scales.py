"""The scales of the experiments: their data, backbones and schedules, up to those of the paper."""

from __future__ import annotations

import dataclasses
from typing import Literal

from experiments import LOSS_WIDTHS, REFERENCE_WIDTH, RESNET, Scale, first

from effssl import PretrainConfig
from effssl.local import MOVED_SAMPLE, SAMPLE

_FASHION = {"in_chans": 1, "img_size": 32, "preset": "grey", "evaluate_every": 0}

CPU = Scale(
    PretrainConfig(
        **_FASHION,
        backbone="test_convnext2",
        patch_size=4,
        projector_dim=REFERENCE_WIDTH,
        views=2,
        batch_size=64,
        epochs=4,
        lr=1.5e-3,
        cpu=True,
    ),
    images=10_000,
    test_split="test",
    width_batch_size=64,
    studies=("form", "views", "width", "data", "weight", "vicreg", "longer"),
)
# objects that are moved: raw pixels are weak, and runs differ by more than seeds
MOVED = Scale(
    PretrainConfig(
        **_FASHION,
        backbone="convnext_zepto_rms",
        patch_size=4,
        dataset=MOVED_SAMPLE,
        projector_dim=REFERENCE_WIDTH,
        views=2,
        batch_size=128,
        epochs=4,
        lr=2e-3,
        cpu=True,
    ),
    images=10_000,
    test_split="test",
    width_batch_size=128,
    studies=("views", "width", "data", "tuned", "form", "weight", "losses", "length"),
    widths=(32, 64, 128, 256, 512, 1024, 2048, REFERENCE_WIDTH),
    small_width=128,
    tuned={128: {"lr": 4e-3}, REFERENCE_WIDTH: {"lr": 8e-3, "loss_weight": 2e-4}},
    supervised_epochs=16,  # as many views as 4 views in 4 epochs
    lengths=(
        (2, (1, 1 / 2, 1 / 4, 1 / 8, 2, 4)),
        (4, (1, 1 / 2, 1 / 4, 1 / 8, 2)),
        (8, (1, 1 / 2, 1 / 4, 1 / 8)),
    ),
)
# the backbone of the first command, which also takes the small crops of local views
MOVED_RESNET = dataclasses.replace(
    MOVED,
    reference=dataclasses.replace(MOVED.reference, **RESNET),
    studies=("first", "views", "data", "local", "losses", "length"),
    tuned={},
    lengths=((2, (1, 1 / 2, 2)), (4, (1, 1 / 2)), (8, (1 / 4,))),
)
# every moved image once by 2 views: where views could replace images, with images to spare
WHOLE = dataclasses.replace(
    MOVED,
    reference=dataclasses.replace(MOVED.reference, dataset="fashion-mnist-moved", epochs=1),
    images=60_000,
    studies=("views", "data"),
    tuned={},
    supervised_epochs=0,
    lengths=((2, (1,)), (4, (1, 1 / 2)), (8, (1 / 4,))),
)
GPU = Scale(
    PretrainConfig(
        **_FASHION,
        backbone="resnet18_cifar",
        dataset="fashion-mnist",
        projector_dim=REFERENCE_WIDTH,
        views=2,
        batch_size=256,
        epochs=4,
    ),
    images=60_000,
    test_split="test",
    width_batch_size=256,
    supervised_epochs=16,
    studies=("views", "width", "data", "local"),
)
GPU_MOVED = dataclasses.replace(
    GPU, reference=dataclasses.replace(GPU.reference, dataset="fashion-mnist-moved")
)
# The settings of the paper's code, except for a cosine schedule instead of none, and a linear probe
# by L-BFGS on single images instead of Adam on 16 views of each. ImageNet-100's batch is a guess.
_PAPER = {
    "projector_dim": REFERENCE_WIDTH,
    "views": 2,
    "epochs": 100,
    "optimizer": "adam",
    "weight_decay": 1e-6,
    "warmup_epochs": 0.0,
    "precision": "fp16",
    "evaluate_every": 0,
}
CIFAR10 = Scale(
    PretrainConfig(
        **_PAPER,
        backbone="resnet50_cifar",
        dataset="uoft-cs/cifar10",
        preset="cifar",
        img_size=32,
        batch_size=128,
    ),
    images=50_000,
    test_split="test",
    width_batch_size=512,
)
STL10 = Scale(
    PretrainConfig(
        **_PAPER,
        backbone="resnet50_cifar",
        dataset="tanganke/stl10",
        preset="stl",
        img_size=64,
        batch_size=64,
    ),
    images=5_000,
    test_split="test",
    width_batch_size=256,
)
IMAGENET100 = Scale(
    PretrainConfig(
        **_PAPER,
        backbone="resnet50",
        dataset="clane9/imagenet-100",
        batch_size=128,
        workers=16,
    ),
    images=126_689,
    test_split="validation",
    width_batch_size=256,
)
# W-MSE at width 256 would take a batch of more than 256 images
LOSS_SCALE = Scale(
    PretrainConfig(
        **_FASHION,
        backbone="convnext_zepto_rms",
        patch_size=4,
        projector_dim=LOSS_WIDTHS[-1],
        views=4,
        batch_size=128,
        epochs=3,
        lr=2e-3,
        cpu=True,
    ),
    images=10_000,
    test_split="test",
    width_batch_size=128,
    studies=("losses",),
)
FIRST = next(first(MOVED_RESNET))
"""Configuration of the first command of README.md."""
_KEPT = "train[:8000]"
CHOICE = tuple(
    dataclasses.replace(
        MOVED,
        reference=dataclasses.replace(MOVED.reference, dataset=name, split=_KEPT),
        images=8000,
        train_split=_KEPT,
        test_split="train[8000:]",
        supervised_epochs=0,
        studies=studies,
    )
    for name, studies in ((MOVED_SAMPLE, ("choice", "tuning")), (SAMPLE, ("choice",)))
)
ScaleName = Literal["choice", "cpu", "whole", "losses", "gpu", "paper"]
SCALES: dict[ScaleName, tuple[Scale, ...]] = {
    "choice": CHOICE,
    "cpu": (CPU, MOVED, MOVED_RESNET),
    "whole": (WHOLE,),
    "losses": (LOSS_SCALE,),
    "gpu": (GPU, GPU_MOVED),
    "paper": (CIFAR10, STL10, IMAGENET100),
}

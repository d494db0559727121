"""The pretrained model and its baselines, as encoders of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from effssl.model import SSLModel
from effssl.seeding import derived_seed
from effssl.timm_backbone import build_backbone

ENCODERS = ("raw pixels", "random weights", "pretrained")
Baselines = Literal["none", "raw", "random", "all"]
"""What is measured beside the model: neither, one, or both of raw pixels and random weights."""
BASELINES = get_args(Baselines)
_PIXELS = 32


@dataclass(frozen=True)
class Encoder:
    """One of `ENCODERS`.

    Attributes:
        name: Its name in tables and records.
        words: Its name in messages.
        build: Function from a seed to the module.
        seeded: Whether the module depends on the seed.
        img_size: Side of its input in pixels; that of the model if None.
        trainable: Whether it has weights to fine-tune.
    """

    name: str
    words: str
    build: Callable[[int], nn.Module]
    seeded: bool = False
    img_size: int | None = None
    trainable: bool = True


def encoders_of(model: SSLModel, baselines: Baselines = "all") -> list[Encoder]:
    """Return the encoders to compare, the model itself last."""
    pixels = min(_PIXELS, model.backbone.pretrained_cfg["input_size"][-1])
    raw, random, pretrained = ENCODERS
    found = []
    if baselines in ("raw", "all"):
        found.append(Encoder(raw, raw, lambda seed: nn.Flatten(), img_size=pixels, trainable=False))
    if baselines in ("random", "all"):
        found.append(Encoder(random, random, lambda seed: random_twin(model, seed), seeded=True))
    return [*found, Encoder(pretrained, "this model", lambda seed: model)]


def random_twin(model: SSLModel, seed: int) -> nn.Module:
    """Build the same backbone with fresh weights, on the same device."""
    cfg = model.backbone.pretrained_cfg
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        twin = build_backbone(cfg["architecture"], model.backbone_args)
    twin.pretrained_cfg = cfg
    return twin.to(next(model.parameters()).device)

"""ResNets for small images: a 3x3 stride-1 stem and no max-pool, so 32 px give a 4x4 map.

This is the stem of the CIFAR experiments of SimCLR (https://arxiv.org/abs/2002.05709, appendix
B.9) and of https://arxiv.org/abs/2312.10725. Importing this module registers the backbones with
timm, which then creates them by name. A process that loads their weights with timm or transformers
must import this module first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import timm
from huggingface_hub import constants
from huggingface_hub.utils import httpx
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from effssl.hints import option

_CFG = {
    "num_classes": 1000,
    "input_size": (3, 32, 32),
    "pool_size": (4, 4),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "first_conv": "conv1",
    "classifier": "fc",
}

default_cfgs = generate_default_cfgs(
    {f"resnet{depth}_cifar.untrained": dict(_CFG) for depth in (18, 34, 50)}
)


class SmallImageResNet(ResNet):
    """timm's ResNet with a 3x3 stride-1 stem and no max-pool; takes the same arguments."""

    def __init__(self, *args, in_chans: int = 3, **kwargs) -> None:
        super().__init__(*args, in_chans=in_chans, **kwargs)
        self.conv1 = nn.Conv2d(in_chans, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        for level, info in enumerate(self.feature_info):
            info["reduction"] = 2 ** max(level - 1, 0)  # stem, then the four stages: 1, 1, 2, 4, 8


def _create(variant: str, pretrained: bool, **kwargs) -> SmallImageResNet:
    return build_model_with_cfg(SmallImageResNet, variant, pretrained, **kwargs)


@register_model
def resnet18_cifar(pretrained: bool = False, **kwargs) -> SmallImageResNet:
    """ResNet-18 for small images; 512 features."""
    return _create("resnet18_cifar", pretrained, block=BasicBlock, layers=(2, 2, 2, 2), **kwargs)


@register_model
def resnet34_cifar(pretrained: bool = False, **kwargs) -> SmallImageResNet:
    """ResNet-34 for small images; 512 features."""
    return _create("resnet34_cifar", pretrained, block=BasicBlock, layers=(3, 4, 6, 3), **kwargs)


@register_model
def resnet50_cifar(pretrained: bool = False, **kwargs) -> SmallImageResNet:
    """ResNet-50 for small images; 2048 features."""
    return _create("resnet50_cifar", pretrained, block=Bottleneck, layers=(3, 4, 6, 3), **kwargs)


@contextmanager
def named_download(backbone: str) -> Iterator[None]:
    """Raise the errors of a download of timm's weights as one line that says what to do.

    Args:
        backbone: Name in timm, with or without the tag of its weights.

    Raises:
        FileNotFoundError: In place of an error of the connection, the Hub or the cache.
    """
    try:
        yield
    except (OSError, httpx.HTTPError) as error:
        cfg = timm.get_pretrained_cfg(backbone, allow_unregistered=False)
        source = f"{constants.ENDPOINT}/{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url
        reason = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
        why = f"{source} gives none: {reason}"
        if constants.is_offline_mode():
            why = "HF_HUB_OFFLINE is set: unset it to download them"
        raise FileNotFoundError(
            f"no pretrained weights of {backbone!r}: they are not in the cache "
            f"{os.path.normpath(constants.HF_HUB_CACHE)}, and {why}; or start from random weights, "
            f"without {option('pretrained')}"
        ) from error

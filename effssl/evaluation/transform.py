"""The deterministic transform of a model's input, for evaluation and use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timm.data
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Compose

from effssl.data.sources import pil_mode
from effssl.model import SSLModel


def create_transform(
    model: SSLModel | nn.Module, *, img_size: int | None = None
) -> Callable[[Image.Image], Tensor]:
    """Resize, centre-crop and normalise as the weights were trained.

    Args:
        model: An `SSLModel`, or a timm model.
        img_size: Side of the result in pixels; what the model was trained on if None.

    Returns:
        A function of a PIL image of any size and mode that gives (C, S, S).
    """
    backbone = model.backbone if isinstance(model, SSLModel) else model
    config = timm.data.resolve_data_config(pretrained_cfg=backbone.pretrained_cfg)
    channels = config["input_size"][0]
    if img_size is not None:
        config["input_size"] = (channels, img_size, img_size)
    convert = partial(Image.Image.convert, mode=pil_mode(channels))
    return Compose([convert, timm.data.create_transform(**config, is_training=False)])

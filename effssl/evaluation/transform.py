"""The deterministic transform of a model's input, for evaluation and use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import timm.data
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Compose

from effssl.data.decode import convert_image, pil_mode
from effssl.model import SSLModel


def create_transform(
    model: SSLModel | nn.Module, *, img_size: int | None = None
) -> Callable[[Image.Image | np.ndarray | Tensor], Tensor]:
    """Resize, centre-crop and normalise as the weights were trained.

    Args:
        model: An `SSLModel`, or a timm model.
        img_size: Side of the result in pixels; what the model was trained on if None.

    Returns:
        A function that gives (C, S, S), of a PIL image of any size and mode, or of uint8 pixels,
        an array or tensor (C, H, W), which are divided by 255. A model whose channels are not 1, 3
        or 4 takes pixels only. It raises ValueError for anything else.
    """
    backbone = model.backbone if isinstance(model, SSLModel) else model
    config = timm.data.resolve_data_config(pretrained_cfg=backbone.pretrained_cfg)
    channels = config["input_size"][0]
    if img_size is not None:
        config["input_size"] = (channels, img_size, img_size)
    convert = partial(_in_channels, channels=channels)
    return Compose([convert, timm.data.create_transform(**config, is_training=False)])


def _in_channels(image: Image.Image | np.ndarray | Tensor, channels: int) -> Image.Image | Tensor:
    if isinstance(image, Image.Image):
        return convert_image(image, pil_mode(channels))
    pixels = torch.as_tensor(image)
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or len(pixels) != channels:
        raise ValueError(
            f"{pixels.dtype} pixels of shape {tuple(pixels.shape)}: a PIL image or uint8 pixels "
            f"({channels}, H, W) are wanted"
        )
    return pixels / 255

"""Deterministic transform of images into the input of a model."""

from __future__ import annotations

import numpy as np
import timm.data
import torch
from PIL import Image
from torch import Tensor, nn

from effssl.data._pixels import convert_image, pil_mode
from effssl.device import to_device
from effssl.model import SSLModel


class EvalTransform:
    """Resize, center-crop and normalize an image as the weights were trained.

    `crop` and `normalize` are its two halves: images are cropped one by one, as bytes, and a batch
    is normalized at once on the device.

    Args:
        config: Result of ``timm.data.resolve_data_config``.
    """

    def __init__(self, config: dict) -> None:
        self.channels = config["input_size"][0]
        self.mean, self.std = (list(config[key]) for key in ("mean", "std"))
        self.resize_and_crop = timm.data.create_transform(
            **config, is_training=False, normalize=False
        )

    def crop(self, image: Image.Image | np.ndarray | Tensor) -> Tensor:
        """Resize and crop an image.

        Returns:
            Shape (C, S, S): uint8 for a PIL image, floats in [0, 1] for an array or tensor.

        Raises:
            ValueError: If it is neither a PIL image nor uint8 pixels of the model's channels.
        """
        if isinstance(image, Image.Image):
            return self.resize_and_crop(convert_image(image, pil_mode(self.channels)))
        pixels = torch.as_tensor(image)
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or len(pixels) != self.channels:
            raise ValueError(
                f"{pixels.dtype} pixels of shape {tuple(pixels.shape)}: a PIL image or uint8 "
                f"pixels ({self.channels}, H, W) are wanted"
            )
        return self.resize_and_crop(pixels / 255)

    def normalize(self, crops: Tensor) -> Tensor:
        """Normalize one result of `crop` or a batch of them, shape (..., C, S, S)."""
        if crops.dtype == torch.uint8:
            crops = crops.float().div_(255)
        mean, std = (
            to_device(torch.tensor(values, dtype=crops.dtype).view(-1, 1, 1), crops.device)
            for values in (self.mean, self.std)
        )
        return crops.sub(mean).div_(std)

    def __call__(self, image: Image.Image | np.ndarray | Tensor) -> Tensor:
        """Crop and normalize an image, to shape (C, S, S); see `crop`."""
        return self.normalize(self.crop(image))

    def __repr__(self) -> str:
        return f"EvalTransform({self.resize_and_crop}, {self.mean}, {self.std})"


def create_transform(model: SSLModel | nn.Module, *, img_size: int | None = None) -> EvalTransform:
    """Make the transform that the weights of a model expect: resize, center-crop, normalize.

    Args:
        model: `SSLModel` or timm model.
        img_size: Side of the result in pixels; the size of the training if None.

    Returns:
        A function that maps a PIL image of any size and mode, or uint8 pixels (an array or tensor
        (C, H, W)), to a tensor (C, S, S). For a model whose channels are not 1, 3 or 4 it takes
        pixels only. It raises ValueError for anything else.
    """
    backbone = model.backbone if isinstance(model, SSLModel) else model
    config = timm.data.resolve_data_config(pretrained_cfg=backbone.pretrained_cfg)
    if img_size is not None:
        config["input_size"] = (config["input_size"][0], img_size, img_size)
    return EvalTransform(config)

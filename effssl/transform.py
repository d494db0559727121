"""Deterministic transform of images into the input of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import timm.data
import torch
from PIL import Image
from torch import Tensor, nn

from effssl.background import BACKGROUND
from effssl.data._modes import convert_image
from effssl.data._pixels import channels_first, eight_bits, pil_mode
from effssl.device import to_device
from effssl.model import SSLModel


class EvalTransform:
    """Resize, center-crop and normalize an image as the weights were trained.

    `crop` and `normalize` are its two halves: images are cropped one by one, as bytes, and a batch
    is normalized at once on the device.

    Args:
        config: Result of ``timm.data.resolve_data_config``.
        value_range: Stored values that become black and white; None for those of 8 bits.
        background: Color behind transparent pixels, or ``drop``; white if None.
    """

    def __init__(
        self,
        config: dict,
        value_range: tuple[float, float] | None = None,
        background: str | None = None,
    ) -> None:
        self.channels = config["input_size"][0]
        self.mean, self.std = (list(config[key]) for key in ("mean", "std"))
        self.value_range, self.background = value_range, background or BACKGROUND
        self.resize_and_crop = timm.data.create_transform(
            **config, is_training=False, normalize=False
        )

    def crop(self, image: Image.Image | np.ndarray | Tensor) -> Tensor:
        """Resize and crop an image. Transparent pixels of a PIL image are laid on the background.

        With a value range, stored values are mapped first: those of a PIL image of any mode, and of
        an array of any type but uint8, which is taken for the result of `decode_image`.

        Returns:
            Shape (C, S, S): uint8 for a PIL image, floats in [0, 1] for an array or tensor.

        Raises:
            ValueError: If it is neither a PIL image nor pixels of the model's channels; without a
                value range pixels must be uint8.
        """
        if isinstance(image, Image.Image):
            mode = pil_mode(self.channels)
            pixels = convert_image(image, mode, self.value_range, self.background)
            return self.crop_pixels(pixels)
        if self.value_range is None:
            return self.crop_pixels(image)
        stored = image.cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
        if stored.dtype != np.uint8:
            stored = eight_bits(channels_first(stored, self.channels), self.value_range)
        return self.crop_pixels(stored)

    def crop_pixels(self, pixels: Image.Image | np.ndarray | Tensor) -> Tensor:
        """Resize and crop 8-bit pixels, as `decode_image` and `open_image` return them.

        Returns:
            Shape (C, S, S), as for `crop`.

        Raises:
            ValueError: If they are neither a PIL image nor uint8 pixels of the model's channels.
        """
        if isinstance(pixels, Image.Image):
            mode = pil_mode(self.channels)
            return self.resize_and_crop(convert_image(pixels, mode, None, self.background))
        pixels = torch.as_tensor(pixels)
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
        how = f"{self.resize_and_crop}, {self.mean}, {self.std}"
        how += "" if self.value_range is None else f", value_range={self.value_range}"
        how += "" if self.background == BACKGROUND else f", background={self.background!r}"
        return f"EvalTransform({how})"


def create_transform(model: SSLModel | nn.Module, *, img_size: int | None = None) -> EvalTransform:
    """Make the transform that the weights of a model expect: resize, center-crop, normalize.

    Args:
        model: `SSLModel` or timm model.
        img_size: Side of the result in pixels; the size of the training if None.

    Returns:
        A function that maps a PIL image of any size and mode, or uint8 pixels (an array or tensor
        (C, H, W)), to a tensor (C, S, S). For a model whose channels are not 1, 3 or 4 it takes
        pixels only. It raises ValueError for anything else. For a model that was trained with a
        value range it maps stored values as the training did, and takes pixels of any type.
        Transparent pixels are laid on the background of the training.
    """
    backbone = model.backbone if isinstance(model, SSLModel) else model
    cfg: Any = backbone.pretrained_cfg
    config = timm.data.resolve_data_config(pretrained_cfg=cfg)
    if img_size is not None:
        config["input_size"] = (config["input_size"][0], img_size, img_size)
    return EvalTransform(config, cfg.get("value_range"), cfg.get("background"))

"""Boxes of random crops, as in torchvision's ``RandomResizedCrop``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CROP_ATTEMPTS = 10  # as in torchvision; then the largest centered crop that fits


def draw_crops(
    shape: tuple[int, ...],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    """Draw the parameters of random crops, independent of the sizes of the images.

    Args:
        shape: Leading shape of the draws, such as (V, N).
        scale: Bounds of the crop's share of the image area.
        ratio: Bounds of the crop's width / height.
        generator: CPU generator.

    Returns:
        ``area`` and ``ratio``, (*shape, 10): candidates in the order in which they are tried.
        ``position``, (*shape, 2): position of the crop in the free height and width, in [0, 1).
    """
    uniform = torch.rand(*shape, 2 * CROP_ATTEMPTS + 2, generator=generator)
    area, log_ratio, position = uniform.split([CROP_ATTEMPTS, CROP_ATTEMPTS, 2], dim=-1)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    return {
        "area": scale[0] + (scale[1] - scale[0]) * area,
        "ratio": torch.exp(low + (high - low) * log_ratio),
        "position": position,
    }


def crop_boxes(
    draws: dict[str, Tensor], sizes: Tensor, ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Turn draws into pixel boxes by the rule of torchvision's ``RandomResizedCrop``.

    Args:
        draws: Result of `draw_crops`, with leading shape (N,).
        sizes: Height and width of each image in pixels, (N, 2).
        ratio: Bounds of width / height, for the fallback crop.

    Returns:
        Top, left, height and width of each box in whole pixels, (N,) each.
    """
    image_h, image_w = sizes.unbind(-1)
    target = draws["area"] * (image_h * image_w).unsqueeze(-1)
    widths = torch.round(torch.sqrt(target * draws["ratio"])).long()
    heights = torch.round(torch.sqrt(target / draws["ratio"])).long()
    fits = (
        (widths > 0)
        & (widths <= image_w.unsqueeze(-1))
        & (heights > 0)
        & (heights <= image_h.unsqueeze(-1))
    )
    first = fits.int().argmax(-1, keepdim=True)
    width, height = widths.gather(-1, first)[..., 0], heights.gather(-1, first)[..., 0]

    image_ratio = image_w / image_h
    fallback_w = torch.where(image_ratio > ratio[1], torch.round(image_h * ratio[1]), image_w)
    fallback_h = torch.where(image_ratio < ratio[0], torch.round(image_w / ratio[0]), image_h)
    found = fits.any(-1)
    width = torch.where(found, width, fallback_w.long())
    height = torch.where(found, height, fallback_h.long())
    free = torch.stack([image_h - height, image_w - width], dim=-1)
    centered = free.div(2).round().long()
    drawn = (draws["position"] * (free + 1)).long()
    top, left = torch.where(found.unsqueeze(-1), drawn, centered).unbind(-1)
    return top, left, height, width

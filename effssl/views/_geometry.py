"""Boxes of random crops and of erasing, and turns, as torchvision draws them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CROP_ATTEMPTS = 10  # as in torchvision; then the largest centered crop that fits
ERASE_SCALE, ERASE_RATIO = (0.02, 0.33), (0.3, 3.3)  # of torchvision's ``RandomErasing``
ERASE_ATTEMPTS = 10  # likewise; then nothing is erased


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


def draw_erased(
    shape: tuple[int, ...], probability: float, size: int, generator: torch.Generator | None
) -> Tensor:
    """Draw the boxes that are erased by the rule of torchvision's ``RandomErasing``.

    Args:
        shape: Leading shape of the draws, such as (V, N).
        probability: Probability that a box of a view is erased.
        size: Side of a view in pixels.
        generator: CPU generator.

    Returns:
        Top, left, height and width of each box in whole pixels, (*shape, 4) int64; the height and
        width 0 if nothing is erased.
    """
    uniform = torch.rand(*shape, 2 * ERASE_ATTEMPTS + 3, generator=generator)
    area, log_ratio, position, chosen = uniform.split([ERASE_ATTEMPTS, ERASE_ATTEMPTS, 2, 1], -1)
    low, high = (math.log(bound) for bound in ERASE_RATIO)
    area = (ERASE_SCALE[0] + (ERASE_SCALE[1] - ERASE_SCALE[0]) * area) * size**2
    ratio = torch.exp(low + (high - low) * log_ratio)  # of height to width, unlike that of a crop
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=-1).round().long()
    fits = (sides < size).all(-1)
    first = fits.int().argmax(-1, keepdim=True).unsqueeze(-1)
    sides = sides.take_along_dim(first, dim=-2).squeeze(-2)
    sides = torch.where(fits.any(-1, keepdim=True) & (chosen < probability), sides, 0)
    return torch.cat([(position * (size - sides + 1)).long(), sides], dim=-1)


def mirrors_and_transposes(draws: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return flips and quarter turns as mirrors of both axes, after which some views transpose.

    A left-right flip comes first, then an up-down flip, then the quarter turns of ``torch.rot90``.

    Args:
        draws: ``flip``, and ``vertical_flip`` and ``quarter_turns`` if they were drawn, (N,).

    Returns:
        Whether the crop is mirrored left to right, whether up to down, and whether rows and columns
        of the result change places, (N,) bool each.
    """
    across = draws["flip"]
    down = draws.get("vertical_flip", torch.zeros_like(across))
    turns = draws.get("quarter_turns", torch.zeros_like(across, dtype=torch.long))
    across = across ^ ((turns == 1) | (turns == 2))
    return across, down ^ (turns >= 2), turns % 2 == 1

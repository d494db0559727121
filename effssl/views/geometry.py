"""Random resized crop and flip as one antialiased resampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop: then the largest centred crop that fits
LARGEST_BY_MATRICES = 48  # side of a view on the CPU; about where interpolation becomes faster


def draw_crops(
    shape: tuple[int, ...],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    """Draw what defines random crops, whatever the sizes of the images they will be taken from.

    Args:
        shape: Leading shape of the draws, such as (V, N).
        scale: Bounds of the crop's share of the image area.
        ratio: Bounds of the crop's width / height.
        generator: CPU generator.

    Returns:
        ``area`` and ``ratio``, (*shape, 10): candidates in the order in which they are tried;
        ``position``, (*shape, 2): where the crop lies in the free height and width, in [0, 1).
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
        draws: What `draw_crops` returned, with leading shape (N,).
        sizes: Height and width of each image in pixels, (N, 2).
        ratio: Bounds of width / height; the fallback crop is clamped to them.

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
    centred = free.div(2).round().long()
    drawn = (draws["position"] * (free + 1)).long()
    top, left = torch.where(found.unsqueeze(-1), drawn, centred).unbind(-1)
    return top, left, height, width


def resampling_matrix(
    start: Tensor,
    length: Tensor,
    source: int,
    target: int,
    mirror: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Antialiased linear resampling of ``source[start : start + length]`` to ``target`` samples.

    The weights are those of Pillow's bilinear filter and of
    ``torch.nn.functional.interpolate(mode="bilinear", antialias=True)``: a triangle as wide as
    the scale, cut at the edges of the crop and normalised.

    Args:
        start: First source sample of each crop, (N,).
        length: Number of source samples of each crop, (N,).
        source: Samples along this axis.
        target: Samples wanted.
        mirror: Whether the samples come in reverse order, (N,) bool; nowhere if None.
        dtype: Of the weights.

    Returns:
        Weights, (N, target, source), each row summing to 1.
    """
    start, length = start.to(dtype)[:, None, None], length.to(dtype)[:, None, None]
    scale = length / target
    index = torch.arange(target, device=start.device)[:, None]
    if mirror is not None:
        index = torch.where(mirror[:, None, None], target - 1 - index, index)
    centre = scale * (index + 0.5)
    sample = torch.arange(source, device=start.device) + 0.5 - start  # (N, 1, source)
    within = ((sample > 0) & (sample < length)).to(dtype)
    weights = (sample - centre).abs_().div_(-scale.clamp(min=1)).add_(1).clamp_(min=0)
    weights.mul_(within)
    return weights.div_(weights.sum(-1, keepdim=True))


def resized_crop(
    images: Tensor,
    rows: Tensor,
    boxes: tuple[Tensor, Tensor, Tensor, Tensor],
    flip: Tensor,
    size: int,
) -> Tensor:
    """Crop chosen images to their boxes, resize to size x size with antialiasing, flip some.

    Small views, and any on an accelerator, are products with a pair of matrices for each image.
    The cost of these grows with the cube of the size, so that large views on the CPU are
    interpolated one by one; those of uint8 images are then rounded to whole pixel values.

    Args:
        images: uint8 or float images, (N, C, H, W).
        rows: Indices of the M images to take, on the CPU.
        boxes: Top, left, height, width of each of these, (M,) on the CPU.
        flip: Whether to mirror each of these left to right, (M,) bool on the CPU.
        size: Side of the result in pixels.

    Returns:
        In the units of the images, (M, C, size, size): float64 of float64 images, else float32.
    """
    if images.device.type == "cpu" and size > LARGEST_BY_MATRICES:
        return _by_interpolation(images, rows, boxes, flip, size)
    rows, *boxes, flip = (t.to(images.device) for t in (rows, *boxes, flip))
    return _by_matrices(_as_float(images[rows]), boxes, flip, size)


def _as_float(images: Tensor) -> Tensor:
    return images if images.dtype == torch.float64 else images.float()


def _by_matrices(images: Tensor, boxes: list[Tensor], flip: Tensor, size: int) -> Tensor:
    top, left, height, width = boxes
    rows = resampling_matrix(top, height, images.shape[-2], size, None, images.dtype)  # (N, S, H)
    # (N, S, W)
    columns = resampling_matrix(left, width, images.shape[-1], size, flip, images.dtype)
    # one (C * H, W) x (W, S) product an image, then one (S, H) x (H, S) product a channel
    narrowed = images.flatten(1, 2) @ columns.transpose(1, 2)
    return rows.unsqueeze(1) @ narrowed.unflatten(1, images.shape[1:3])


@torch.compiler.disable  # a loop over slices of a different shape each has nothing to compile
def _by_interpolation(
    images: Tensor, rows: Tensor, boxes: tuple[Tensor, ...], flip: Tensor, size: int
) -> Tensor:
    views = []
    for row, flipped, *box in zip(
        rows.tolist(), flip.tolist(), *(side.tolist() for side in boxes), strict=True
    ):
        top, left, height, width = box
        crop = images[row : row + 1, :, top : top + height, left : left + width]
        if crop.dtype != torch.uint8:
            crop = _as_float(crop)
        view = interpolate(crop, size=(size, size), mode="bilinear", antialias=True)
        views.append(view.flip(-1) if flipped else view)
    return _as_float(torch.cat(views))

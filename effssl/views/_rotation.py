"""Rotated crops: the antialiased crop with its surroundings, then bilinear sampling.

Rotation of a crop alone, as of torchvision's ``RandomRotation`` after ``RandomResizedCrop``, would
leave black corners, by which views could be told apart. Here the corners show what surrounds the
crop in the image, and beyond the edges of the image its mirror image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from effssl.device import to_device
from effssl.views._plan import (
    COS,
    CROP_HEIGHT,
    CROP_WIDTH,
    FACTORS,
    FLIP,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    LEFT,
    SIN,
    TOP,
)
from effssl.views._resampling import stacked

_AXES = ((IMAGE_HEIGHT, TOP, CROP_HEIGHT), (IMAGE_WIDTH, LEFT, CROP_WIDTH))


def surroundings(size: int, largest: float) -> int:
    """Return the pixels around a view that rotation by at most `largest` degrees can reach."""
    angle = math.radians(min(largest, 45.0))
    # two more: bilinear sampling reads a neighbor
    return math.ceil(size * (math.cos(angle) + math.sin(angle) - 1) / 2) + 2


def rotated_crops(pixels: Tensor, plan: Tensor, channels: int, size: int, largest: float) -> Tensor:
    """Crop images to the boxes of a plan, resize to size x size, rotate, and flip left to right.

    It equals ``torchvision.transforms.v2.functional.rotate`` (bilinear, about the center) of the
    resized crop with its surroundings, of which the center is kept.

    Args:
        pixels: Flat buffer of uint8 or float images.
        plan: Columns of a plan, (P, M) on the CPU.
        channels: Number of channels, C.
        size: Side of the result in pixels, S.
        largest: Bound of the angles in degrees.

    Returns:
        Views in the units of the pixels, (M, C, S, S): float64 for float64 images, else float32.
    """
    margin = surroundings(size, largest)
    region = _region(plan, (margin + 1) / size)
    boxes = to_device(region.long(), pixels.device)
    images, *origins = stacked(pixels, region, boxes, channels)
    dtype, source = images.dtype, images.shape[2:]
    values = to_device(plan[:FACTORS].to(dtype), pixels.device)
    weights = []
    for axis, (side, start, length) in enumerate(_AXES):
        center = _centers(values[start], values[length], size, margin)
        places = boxes[start], boxes[length], values[side], origins[axis]
        scale = values[length] / size
        weights.append(_mirrored_matrix(center, scale, *places, source[axis]))
    narrowed = images.flatten(1, 2) @ weights[1].transpose(1, 2)
    around = weights[0].unsqueeze(1) @ narrowed.unflatten(1, images.shape[1:3])
    grid = _grid(values[COS], values[SIN], values[FLIP], size, size + 2 * margin)
    return grid_sample(around, grid, align_corners=False)


def _region(plan: Tensor, margin: float) -> Tensor:
    """Return rows of the plan up to FLIP, with boxes enlarged by a share of them to all sides."""
    region = plan[: FLIP + 1].clone()
    for side, start, length in _AXES:
        more = (margin * plan[length]).ceil() + 1
        region[start] = (plan[start] - more).clamp(min=0)
        end = torch.minimum(plan[start] + plan[length] + more, plan[side])
        region[length] = end - region[start]
    return region


def _centers(start: Tensor, length: Tensor, size: int, margin: int) -> Tensor:
    """Return the centers in the image of the pixels of crops with margins, (N, S + 2 margin)."""
    index = torch.arange(-margin, size + margin, device=start.device)
    return start[:, None] + length[:, None] / size * (index + 0.5)


def _mirrored_matrix(
    center: Tensor,
    scale: Tensor,
    low: Tensor,
    extent: Tensor,
    side: Tensor,
    origin: Tensor,
    source: int,
) -> Tensor:
    """Make matrices with the weights of `resampling_matrix` at any centers, mirrored at the edges.

    Args:
        center: Centers of the output samples in the image, (N, T).
        scale: Source samples an output sample, (N,).
        low: First sample in the image of each region that is read, (N,).
        extent: Number of samples of each region, (N,).
        side: Number of samples of each image, (N,).
        origin: Place of each region in the source, (N,).
        source: Number of source samples.

    Returns:
        Weights, (N, T, source), each row summing to 1.
    """
    scale, low, extent, side, origin = (
        x[:, None, None] for x in (scale, low, extent, side, origin)
    )
    sample = torch.arange(source, device=center.device) - origin + low  # in the image
    weights = torch.zeros((), dtype=center.dtype, device=center.device)
    for place in (sample, -1 - sample, 2 * side - 1 - sample):  # and its mirrors at both edges
        distance = (place + 0.5 - center[:, :, None]).abs_()
        weights = weights + distance.div_(-scale.clamp(min=1)).add_(1).clamp_(min=0)
    weights = weights * ((sample >= low) & (sample < low + extent))
    return weights.div_(weights.sum(-1, keepdim=True).clamp_(min=1e-6))


def _grid(cos: Tensor, sin: Tensor, flip: Tensor, size: int, wide: int) -> Tensor:
    """Return where in a source of side `wide` the pixels of views are, (N, size, size, 2)."""
    step = torch.arange(size, device=cos.device, dtype=cos.dtype) - (size - 1) / 2
    y = step[:, None]
    x = step * (1 - 2 * flip)[:, None, None]
    cos, sin = cos[:, None, None], sin[:, None, None]
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1) * (2 / wide)

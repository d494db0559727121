"""Crop, antialiased resize and flip of images in a flat buffer, as one resampling."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from effssl.views._plan import CROP_HEIGHT, CROP_WIDTH, FLIP, HEIGHT, LEFT, START, TOP, WIDTH

LARGEST_BY_MATRICES = 48  # side of a view on the CPU, above which interpolation is faster


def resampling_matrix(
    start: Tensor,
    length: Tensor,
    source: int,
    target: int,
    mirror: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Make matrices that resample ``source[start : start + length]`` to ``target`` samples.

    The weights are those of Pillow's bilinear filter and of
    ``torch.nn.functional.interpolate(mode="bilinear", antialias=True)``: a triangle as wide as the
    scale, cut at the edges of the crop and normalized.

    Args:
        start: First source sample of each crop, (N,).
        length: Number of source samples of each crop, (N,).
        source: Number of source samples along this axis.
        target: Number of output samples.
        mirror: Whether output samples are in reverse order, (N,) bool; never if None.
        dtype: Data type of the weights.

    Returns:
        Weights, (N, target, source), each row summing to 1.
    """
    start, length = start.to(dtype)[:, None, None], length.to(dtype)[:, None, None]
    scale = length / target
    index = torch.arange(target, device=start.device)[:, None]
    if mirror is not None:
        index = torch.where(mirror[:, None, None], target - 1 - index, index)
    center = scale * (index + 0.5)
    sample = torch.arange(source, device=start.device) + 0.5 - start  # (N, 1, source)
    within = ((sample > 0) & (sample < length)).to(dtype)
    weights = (sample - center).abs_().div_(-scale.clamp(min=1)).add_(1).clamp_(min=0)
    weights.mul_(within)
    return weights.div_(weights.sum(-1, keepdim=True))


def resized_crops(pixels: Tensor, plan: Tensor, boxes: Tensor, channels: int, size: int) -> Tensor:
    """Crop images to the boxes of a plan, resize them to size x size, and flip some.

    Small views, and all views on an accelerator, are products with a pair of matrices for each
    image. Their cost grows with the cube of the size, so large views on the CPU are interpolated
    one by one; for uint8 images these are rounded to whole pixel values.

    Args:
        pixels: Flat buffer of uint8 or float images.
        plan: Columns of a plan, (P, M) on the CPU.
        boxes: Rows of the plan up to FLIP, (8, M) int64 on the device of the pixels.
        channels: Number of channels, C.
        size: Side of the result in pixels, S.

    Returns:
        Views in the units of the pixels, (M, C, S, S): float64 for float64 images, else float32.
    """
    if pixels.device.type == "cpu" and size > LARGEST_BY_MATRICES:
        views = []
        for crop, flipped in zip(_crops(pixels, plan, channels), plan[FLIP].tolist(), strict=True):
            crop = crop if crop.dtype == torch.uint8 else _as_float(crop)
            view = interpolate(crop, size=(size, size), mode="bilinear", antialias=True)
            views.append(view.flip(-1) if flipped else view)
        return _as_float(torch.cat(views))
    images, top, left = stacked(pixels, plan, boxes, channels)
    height, width = boxes[CROP_HEIGHT], boxes[CROP_WIDTH]
    rows = resampling_matrix(top, height, images.shape[-2], size, None, images.dtype)  # (M, S, H)
    columns = resampling_matrix(  # (M, S, W)
        left, width, images.shape[-1], size, boxes[FLIP].bool(), images.dtype
    )
    # one (C * H, W) x (W, S) product an image, then one (S, H) x (H, S) product a channel
    narrowed = images.flatten(1, 2) @ columns.transpose(1, 2)
    return rows.unsqueeze(1) @ narrowed.unflatten(1, images.shape[1:3])


def _as_float(images: Tensor) -> Tensor:
    return images if images.dtype == torch.float64 else images.float()


def _crops(pixels: Tensor, plan: Tensor, channels: int) -> Iterator[Tensor]:
    """Yield the cropped pixels of each column, (1, C, h, w), without a copy."""
    for column in plan[:FLIP].T.long().tolist():
        start, height, width, top, left, crop_height, crop_width = column
        plane = height * width
        yield pixels.as_strided(
            (1, channels, crop_height, crop_width),
            (channels * plane, plane, width, 1),
            pixels.storage_offset() + start + top * width + left,
        )


def stacked(
    pixels: Tensor, plan: Tensor, boxes: Tensor, channels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return float images of one shape with the crops, (M, C, H, W), and their tops and lefts."""
    heights, widths = plan[HEIGHT], plan[WIDTH]
    if (heights == heights[0]).all() and (widths == widths[0]).all():
        shape = channels, int(heights[0]), int(widths[0])
        images = pixels.unfold(0, math.prod(shape), 1)[boxes[START]]
        return _as_float(images.view(-1, *shape)), boxes[TOP], boxes[LEFT]
    # images of mixed sizes: only the crops, padded with anything
    height, width = (int(side) for side in plan[CROP_HEIGHT : CROP_WIDTH + 1].amax(1))
    nowhere = torch.zeros_like(boxes[TOP])
    if pixels.device.type == "cpu":
        images = pixels.new_zeros(plan.shape[1], channels, height, width)
        for image, crop in zip(images, _crops(pixels, plan, channels), strict=True):
            image[:, : crop.shape[2], : crop.shape[3]] = crop[0]
    else:
        images = pixels[_crop_places(boxes, channels, height, width)]
    return _as_float(images), nowhere, nowhere


def _crop_places(boxes: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Return indices of crops in the flat buffer, edges repeated to one size, (M, C, H, W)."""
    start, image_height, image_width, top, left, crop_height, crop_width = (
        row.view(-1, 1, 1, 1) for row in boxes[:FLIP]
    )
    y, x = (torch.arange(side, device=boxes.device) for side in (height, width))
    y = top + torch.minimum(y.unsqueeze(1), crop_height - 1)
    x = left + torch.minimum(x, crop_width - 1)
    channel = torch.arange(channels, device=boxes.device).view(-1, 1, 1)
    return start + (channel * image_height + y) * image_width + x

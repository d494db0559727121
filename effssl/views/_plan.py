"""The plan of a step's views: one tensor of numbers, so that one copy takes it to the device.

A plan is a float64 tensor of shape (P, M) on the CPU with a column for each of the M = V * N views,
view v of image n in column v * N + n. Float64 holds byte offsets exactly up to 2^53. Its rows are
the constants of this module, then C rows of brightness and C rows of contrast factors. What the
options leave out, or the number of channels, has the value that changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effssl.views._geometry import crop_boxes

START = 0  # place of the image's first value in the flat buffer of pixels
HEIGHT, WIDTH = 1, 2  # of the image as it lies in the buffer, padding included
TOP, LEFT, CROP_HEIGHT, CROP_WIDTH = 3, 4, 5, 6  # the crop's box within the image
FLIP = 7  # 1 mirrors left to right
SATURATION = 8  # factor
HUE = 9  # share of the circle
GREY = 10  # 1 takes the color away
SIGMA = 11  # of the blur, in pixels of the view; 0 is none
SOLARIZE = 12  # 1 inverts the bright half
ORDER = 13  # a permutation of the columns: those with a blur first, both parts ascending
FACTORS = 14  # brightness of channel c in row FACTORS + c, contrast in row FACTORS + C + c


def build_plan(
    draws: dict[str, Tensor],
    sizes: Tensor,
    starts: Tensor,
    ratio: tuple[float, float],
    *,
    channels: int,
    stored: Tensor | None = None,
) -> Tensor:
    """Turn draws into the plan of the views of images that lie in a flat buffer.

    Args:
        draws: What `MultiView.draw` returned, or columns of it, with leading shape (V, N).
        sizes: Height and width of each image in pixels, (N, 2).
        starts: Place of each image's first value in the buffer, (N,).
        ratio: Bounds of a crop's width / height.
        channels: Number of channels of the images, C.
        stored: Height and width that each image takes in the buffer, (N, 2), where images are
            padded at the bottom and right; None if they are not.

    Returns:
        The plan, (14 + 2 C, V * N) float64 on the CPU.
    """
    views, images = draws["flip"].shape
    flat = {name: values.flatten(0, 1) for name, values in draws.items()}
    plan = torch.zeros(FACTORS + 2 * channels, views * images, dtype=torch.float64)
    plan[START] = starts.repeat(views)
    plan[HEIGHT : WIDTH + 1] = (sizes if stored is None else stored).repeat(views, 1).T
    boxes = crop_boxes(flat, sizes.repeat(views, 1), ratio)
    for row, side in zip(plan[TOP : CROP_WIDTH + 1], boxes, strict=True):
        row.copy_(side)
    plan[FLIP] = flat["flip"]
    plan[SATURATION] = 1
    if channels == 3:
        plan[SATURATION], plan[HUE], plan[GREY] = flat["saturation"], flat["hue"], flat["grey"]
    for row, name in ((SIGMA, "sigma"), (SOLARIZE, "solarize")):
        if name in flat:
            plan[row] = flat[name]
    plan[ORDER] = (plan[SIGMA] == 0).to(torch.uint8).argsort(stable=True)
    for factors, name in zip(
        plan[FACTORS:].split(channels), ("brightness", "contrast"), strict=True
    ):
        values = flat[name]
        factors.copy_(values.T if values.ndim == 2 else values)  # one factor goes to all channels
    return plan


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy from the CPU to a device; on CUDA without waiting for it, where memory can be pinned."""
    if device.type != "cuda":
        return values.to(device)
    try:
        values = values.pin_memory()
    except RuntimeError:  # no memory to pin: the copy blocks
        pass
    return values.to(device, non_blocking=True)


def alike(plan: Tensor) -> Tensor:
    """Order columns such that those that need the same operations are neighbors, (M,) int64.

    The order is that of a Gray code: not only the columns with a blur lie together, at the start,
    but also those with a turn of the hue, so that each of the two costly operations has one slice.
    """
    key = torch.zeros(plan.shape[1], dtype=torch.uint8)
    bit = torch.zeros_like(key, dtype=torch.bool)
    for row in (SIGMA, HUE, GREY, SOLARIZE):
        bit = bit ^ (plan[row] != 0)
        key = 2 * key + bit
    return key.argsort(stable=True, descending=True)

"""The plan of a step's views: one tensor, so that one copy takes it to the device.

A plan is a float64 tensor of shape (P, M) on the CPU with a column for each of the M = V * N views,
view v of image n in column v * N + n. Float64 holds byte offsets exactly up to 2^53. The constants
of this module name its rows; C rows of brightness and C rows of contrast factors follow. Rows of
operations that the options or the number of channels exclude have the neutral value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effssl.views._geometry import crop_boxes, mirrors_and_transposes

START = 0  # index of the image's first value in the flat buffer of pixels
HEIGHT, WIDTH = 1, 2  # of the image in the buffer, with padding
TOP, LEFT, CROP_HEIGHT, CROP_WIDTH = 3, 4, 5, 6  # box of the crop within the image
FLIP = 7  # 1 mirrors the crop left to right
SATURATION = 8  # factor
HUE = 9  # turn as a share of the circle
GREY = 10  # 1 removes the color
SIGMA = 11  # standard deviation of the blur in pixels of the view; 0 is no blur
SOLARIZE = 12  # 1 inverts the bright half
ORDER = 13  # permutation of the columns: those with a blur first, both parts ascending
MIRROR = 14  # 1 mirrors the crop top to bottom
TRANSPOSE = 15  # 1 exchanges rows and columns, after the mirrors
COS, SIN = 16, 17  # of the counterclockwise rotation of the crop, before the mirrors
ERASE_TOP, ERASE_LEFT, ERASE_HEIGHT, ERASE_WIDTH = 18, 19, 20, 21  # box in the view; may be empty
IMAGE_HEIGHT, IMAGE_WIDTH = 22, 23  # without padding
FACTORS = 24  # brightness of channel c in row FACTORS + c, contrast in row FACTORS + C + c


def build_plan(
    draws: dict[str, Tensor],
    sizes: Tensor,
    starts: Tensor,
    ratio: tuple[float, float],
    *,
    channels: int,
    stored: Tensor | None = None,
) -> Tensor:
    """Turn draws into a plan for images in a flat buffer.

    Args:
        draws: Result of `MultiView.draw`, or columns of it, with leading shape (V, N).
        sizes: Height and width of each image in pixels, (N, 2).
        starts: Index of each image's first value in the buffer, (N,).
        ratio: Bounds of a crop's width / height.
        channels: Number of channels of the images, C.
        stored: Height and width of each image in the buffer, (N, 2), if images are padded at the
            bottom and right; None if they are not padded.

    Returns:
        The plan, (24 + 2 C, V * N) float64 on the CPU.
    """
    views, images = draws["flip"].shape
    flat = {name: values.flatten(0, 1) for name, values in draws.items()}
    plan = torch.zeros(FACTORS + 2 * channels, views * images, dtype=torch.float64)
    plan[START] = starts.repeat(views)
    plan[HEIGHT : WIDTH + 1] = (sizes if stored is None else stored).repeat(views, 1).T
    plan[IMAGE_HEIGHT : IMAGE_WIDTH + 1] = sizes.repeat(views, 1).T
    boxes = crop_boxes(flat, sizes.repeat(views, 1), ratio)
    for row, side in zip(plan[TOP : CROP_WIDTH + 1], boxes, strict=True):
        row.copy_(side)
    plan[FLIP], plan[MIRROR], plan[TRANSPOSE] = mirrors_and_transposes(flat)
    plan[SATURATION] = 1
    if channels == 3:
        plan[SATURATION], plan[HUE], plan[GREY] = flat["saturation"], flat["hue"], flat["grey"]
    for row, name in ((SIGMA, "sigma"), (SOLARIZE, "solarize")):
        if name in flat:
            plan[row] = flat[name]
    plan[COS] = 1
    if "angle" in flat:
        angle = flat["angle"].double().deg2rad()
        plan[COS], plan[SIN] = angle.cos(), angle.sin()
    if "erased" in flat:
        plan[ERASE_TOP : ERASE_WIDTH + 1] = flat["erased"].T
    plan[ORDER] = (plan[SIGMA] == 0).to(torch.uint8).argsort(stable=True)
    for factors, name in zip(
        plan[FACTORS:].split(channels), ("brightness", "contrast"), strict=True
    ):
        values = flat[name]
        factors.copy_(values.T if values.ndim == 2 else values)  # one factor for all channels
    return plan


def alike(plan: Tensor) -> Tensor:
    """Return an order of columns with the same operations side by side, (M,) int64.

    It is the order of a Gray code: columns with a blur come first, and columns with a turn of the
    hue are contiguous too, so that each of the two costly operations takes one slice.
    """
    key = torch.zeros(plan.shape[1], dtype=torch.uint8)
    bit = torch.zeros_like(key, dtype=torch.bool)
    for row in (SIGMA, HUE, GREY, SOLARIZE):
        bit = bit ^ (plan[row] != 0)
        key = 2 * key + bit
    return key.argsort(stable=True, descending=True)

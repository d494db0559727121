"""Triton kernels of the fused views: rotated crops.

around_kernel   the resized crop with its surroundings, mirrored at the edges of the image
turn_kernel     rotation, flips, quarter turns, brightness; sums over tiles, as of `crop_kernel`

`effssl.views._rotation` says what they compute, `effssl.views._kernels` describes the arguments.
The planes between the two, (n, C, SIZE + 2 MARGIN, SIZE + 2 MARGIN), hold pixels in [0, 1].
"""

from __future__ import annotations

import triton
import triton.language as tl

from effssl.views import _plan as rows
from effssl.views._kernels import clamp, plan_value

TILE_X, TILE_Y = 32, 16  # pixels of a program, as of crop_kernel

_START, _HEIGHT, _WIDTH = (tl.constexpr(r) for r in (rows.START, rows.HEIGHT, rows.WIDTH))
_TOP, _LEFT = tl.constexpr(rows.TOP), tl.constexpr(rows.LEFT)
_CROP_HEIGHT, _CROP_WIDTH = tl.constexpr(rows.CROP_HEIGHT), tl.constexpr(rows.CROP_WIDTH)
_IMAGE_HEIGHT, _IMAGE_WIDTH = tl.constexpr(rows.IMAGE_HEIGHT), tl.constexpr(rows.IMAGE_WIDTH)
_FLIP, _MIRROR = tl.constexpr(rows.FLIP), tl.constexpr(rows.MIRROR)
_TRANSPOSE, _FACTORS = tl.constexpr(rows.TRANSPOSE), tl.constexpr(rows.FACTORS)
_COS, _SIN = tl.constexpr(rows.COS), tl.constexpr(rows.SIN)


@triton.jit
def _filter(index, start, length, size: tl.constexpr, margin: tl.constexpr):
    """Return first sample in the image, number of samples, center and reach of a filter."""
    scale = length / size
    reach = tl.maximum(scale, 1.0)
    center = start + scale * (index - margin + 0.5)
    return tl.floor(center - reach - 0.5) + 1, tl.ceil(2 * reach).to(tl.int32), center, reach


@triton.jit
def _weight(sample, center, reach, side):
    """Return the triangle's weight of a sample in the image or in a mirror image beside it."""
    weight = tl.maximum(1 - tl.abs(sample + 0.5 - center) / reach, 0.0)
    return tl.where((sample >= -side) & (sample < 2 * side), weight, 0.0)


@triton.jit
def _mirrored(sample, side):
    """Return the sample in the image of one beside it, and of one that is farther any."""
    sample = tl.where(sample < 0, -1 - sample, sample)
    sample = tl.where(sample >= side, 2 * side - 1 - sample, sample)
    return tl.minimum(tl.maximum(sample, 0.0), side - 1).to(tl.int32)


@triton.jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["pixels", "plan"])
def around_kernel(
    pixels,
    plan,
    stride,
    around,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    MARGIN: tl.constexpr,
    ACROSS: tl.constexpr,  # tiles side by side
    TILES: tl.constexpr,
    X: tl.constexpr,
    Y: tl.constexpr,
):
    """Write the crops with their surroundings."""
    plane = tl.program_id(0) // TILES
    tile = tl.program_id(0) % TILES
    plan += plane // C
    height = plan_value(plan, stride, _IMAGE_HEIGHT)
    width = plan_value(plan, stride, _IMAGE_WIDTH)
    row_length = tl.load(plan + _WIDTH * stride).to(tl.int32)
    pixels += tl.load(plan + _START * stride).to(tl.int64)
    pixels += plane % C * (tl.load(plan + _HEIGHT * stride).to(tl.int32) * row_length)

    side: tl.constexpr = SIZE + 2 * MARGIN
    y = tile // ACROSS * Y + tl.arange(0, Y)[:, None]
    x = tile % ACROSS * X + tl.arange(0, X)[None, :]
    inside = (y < side) & (x < side)
    first_y, taps_y, center_y, reach_y = _filter(
        y, plan_value(plan, stride, _TOP), plan_value(plan, stride, _CROP_HEIGHT), SIZE, MARGIN
    )
    first_x, taps_x, center_x, reach_x = _filter(
        x, plan_value(plan, stride, _LEFT), plan_value(plan, stride, _CROP_WIDTH), SIZE, MARGIN
    )
    total = tl.zeros([Y, X], tl.float32)
    weight_sum = tl.zeros([Y, X], tl.float32)
    for tap_y in range(taps_y):
        sample_y = first_y + tap_y
        weight_y = _weight(sample_y, center_y, reach_y, height)
        row = _mirrored(sample_y, height) * row_length
        for tap_x in range(taps_x):
            sample_x = first_x + tap_x
            weight = weight_y * _weight(sample_x, center_x, reach_x, width)
            place = row + _mirrored(sample_x, width)
            value = tl.load(pixels + place, mask=inside, other=0).to(tl.float32)
            total += weight * value
            weight_sum += weight
    value = total / (255 * tl.maximum(weight_sum, 1e-6))
    place = plane * (side * side) + y * side + x
    tl.store(around + place, value.to(around.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["plan"])
def turn_kernel(
    around,
    plan,
    stride,
    scratch,
    sums,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    MARGIN: tl.constexpr,
    ACROSS: tl.constexpr,
    TILES: tl.constexpr,
    X: tl.constexpr,
    Y: tl.constexpr,
):
    """Write the turned and brightened crops to scratch, (n, C, S, S), and sums, (n, C, TILES)."""
    plane = tl.program_id(0) // TILES
    tile = tl.program_id(0) % TILES
    plan += plane // C
    side: tl.constexpr = SIZE + 2 * MARGIN
    y = tile // ACROSS * Y + tl.arange(0, Y)[:, None]
    x = tile % ACROSS * X + tl.arange(0, X)[None, :]
    inside = (y < SIZE) & (x < SIZE)
    # distances from the center, before the mirrors
    down = tl.where(plan_value(plan, stride, _MIRROR) != 0, SIZE - 1 - y, y) - (SIZE - 1) / 2
    across = tl.where(plan_value(plan, stride, _FLIP) != 0, SIZE - 1 - x, x) - (SIZE - 1) / 2
    cos, sin = plan_value(plan, stride, _COS), plan_value(plan, stride, _SIN)
    source_x = cos * across - sin * down + (side - 1) / 2
    source_y = sin * across + cos * down + (side - 1) / 2
    left, top = tl.floor(source_x), tl.floor(source_y)
    right_share, low_share = source_x - left, source_y - top
    around += plane * (side * side) + top.to(tl.int32) * side + left.to(tl.int32)
    upper = tl.load(around, mask=inside, other=0.0).to(tl.float32) * (1 - right_share)
    upper += tl.load(around + 1, mask=inside, other=0.0).to(tl.float32) * right_share
    lower = tl.load(around + side, mask=inside, other=0.0).to(tl.float32) * (1 - right_share)
    lower += tl.load(around + side + 1, mask=inside, other=0.0).to(tl.float32) * right_share
    value = upper * (1 - low_share) + lower * low_share
    factor = plan_value(plan, stride, plane % C + _FACTORS)
    value = tl.where(inside, clamp(value * factor), 0.0)
    # the axes change places where the pixels are written
    swapped = plan_value(plan, stride, _TRANSPOSE) != 0
    pixel = tl.where(swapped, x * SIZE + y, y * SIZE + x)
    place = scratch + plane * (SIZE * SIZE) + pixel
    tl.store(place, value.to(scratch.dtype.element_ty), mask=inside)
    tl.store(sums + plane * TILES + tile, tl.sum(tl.sum(value, axis=1), axis=0))

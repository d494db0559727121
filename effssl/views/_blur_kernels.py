"""Triton kernels of the fused views: the blur, with what follows it.

down_kernel     the blur along columns
across_kernel   the blur along rows, solarization, normalization, erasing

`effssl.views._kernels` describes the arguments.
"""

from __future__ import annotations

import triton
import triton.language as tl

from effssl.views import _plan as rows
from effssl.views._kernels import SIGMA, SOLARIZE, finish, not_erased, plan_value

_ORDER = tl.constexpr(rows.ORDER)


@triton.jit
def _blur(planes, position, across, step, sigma, inside, SIZE: tl.constexpr, RADIUS: tl.constexpr):
    """Blur at `position` along an axis whose samples are `step` values apart."""
    total = tl.zeros(position.shape, tl.float32)
    weight_sum = 0.0
    for tap in range(-RADIUS, RADIUS + 1):
        weight = tl.exp(-0.5 * (tap / sigma) * (tap / sigma))
        place = tl.abs(position + tap)  # reflected at the edges, without repeating them
        place = tl.where(place < SIZE, place, 2 * (SIZE - 1) - place)
        value = tl.load(planes + across + place * step, mask=inside, other=0.0)
        total += weight * value.to(tl.float32)
        weight_sum += weight
    return total / weight_sum


@triton.jit(
    do_not_specialize=["stride", "first", "column"], do_not_specialize_on_alignment=["plan"]
)
def down_kernel(
    plan,
    stride,
    first,  # of these views, in the plan's order
    column,  # of the scratch's first view, in the plan
    scratch,
    blurred,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    RADIUS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Blur along columns, from the scratch to planes of only the blurred views."""
    plane = tl.program_id(0) // BLOCKS
    view = tl.load(plan + _ORDER * stride + first + plane // C).to(tl.int32)
    sigma = tl.maximum(plan_value(plan + view, stride, SIGMA), 0.01)
    pixel = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < SIZE * SIZE
    scratch += ((view - column) * C + plane % C) * (SIZE * SIZE)
    value = _blur(scratch, pixel // SIZE, pixel % SIZE, SIZE, sigma, inside, SIZE, RADIUS)
    place = blurred + plane * (SIZE * SIZE) + pixel
    tl.store(place, value.to(blurred.dtype.element_ty), mask=inside)


@triton.jit(
    do_not_specialize=["stride", "first", "column"],
    do_not_specialize_on_alignment=["plan", "out"],
)
def across_kernel(
    plan,
    stride,
    first,
    column,
    blurred,
    out,
    out_view,
    out_channel,
    out_pixel,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    RADIUS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    ERASE: tl.constexpr,
):
    """Blur along rows, and write the blurred views to out."""
    number = tl.program_id(0) // BLOCKS
    view = tl.load(plan + _ORDER * stride + first + number).to(tl.int32)
    sigma = tl.maximum(plan_value(plan + view, stride, SIGMA), 0.01)
    solarize = plan_value(plan + view, stride, SOLARIZE)
    pixel = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < SIZE * SIZE
    out += (view - column).to(tl.int64) * out_view + pixel * out_pixel
    left = not_erased(plan + view, stride, pixel, SIZE, ERASE)
    row = pixel // SIZE * SIZE
    for channel in tl.static_range(C):
        planes = blurred + (number * C + channel) * (SIZE * SIZE)
        value = _blur(planes, pixel % SIZE, row, 1, sigma, inside, SIZE, RADIUS)
        value = finish(value, solarize, SCALE[channel], SHIFT[channel], left, ERASE)
        tl.store(out + channel * out_channel, value.to(out.dtype.element_ty), mask=inside)

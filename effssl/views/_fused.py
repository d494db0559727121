"""Views by four Triton kernels a chunk, or five with rotation. Importing this module needs Triton.

Each kernel is registered as an operator of PyTorch, so that fake tensors, `torch.compile` and
profilers can trace it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
import triton
from torch import Tensor

from effssl.device import to_device
from effssl.views import _blur_kernels as blur_kernels
from effssl.views import _kernels as kernels
from effssl.views._blur import reach
from effssl.views._fallback import DEVICE
from effssl.views._fused_rotation import rotated_crop
from effssl.views._kernels import BLOCK, TILE_X, TILE_Y
from effssl.views._plan import SIGMA
from effssl.views._rotation import surroundings
from effssl.views.options import ViewOptions

# Memory of the planes between the kernels for a chunk; blurred views take at most as much again.
SCRATCH_BYTES = 256_000_000


def render(
    pixels: Tensor,
    plan: Tensor,
    device_plan: Tensor | None,
    options: ViewOptions,
    *,
    channels: int,
    size: int,
    dtype: torch.dtype,
) -> Tensor:
    """Compute the views of a plan.

    Args:
        pixels: Flat buffer of uint8 images.
        plan: The plan, (P, M) on the CPU.
        device_plan: The plan on the device of the pixels; copied if None.
        options: Options of the views, none None; used for what kinds of operations there are, the
            reach of the blur, and the normalization.
        channels: Number of channels, C.
        size: Side of a view in pixels, S.
        dtype: Data type of the views: bfloat16, float16 or float32.

    Returns:
        Normalized views in the order of the plan, (M, C, S, S) in the format channels_last.
    """
    views = plan.shape[1]
    mean, std = options.channel_stats(channels)
    scale = [1 / s for s in std]
    shift = [m / s for m, s in zip(mean, std, strict=True)]
    radius = min(reach(options), size - 1)
    kept = torch.float32 if dtype == torch.float32 else torch.float16
    margin = surroundings(size, options.rotate) if options.rotate else 0
    chunk = max(1, SCRATCH_BYTES // (kept.itemsize * channels * (size + 2 * margin) ** 2))
    turns, erase = bool(options.vertical_flip or options.quarter_turns), options.erase > 0
    blurred_before = [0, *(plan[SIGMA] > 0).cumsum(0).tolist()]
    pixels = pixels.contiguous()
    plan = to_device(plan, pixels.device) if device_plan is None else device_plan
    plan = plan if plan.stride(1) == 1 else plan.contiguous()  # rows may have any stride
    out = torch.empty(
        (views, channels, size, size),
        dtype=dtype,
        device=pixels.device,
        memory_format=torch.channels_last,
    )
    for start in range(0, views, chunk):
        end = min(start + chunk, views)
        part, columns = out[start:end], plan[:, start:end]
        if options.rotate:
            scratch, sums = rotated_crop(pixels, columns, channels, size, margin, kept)
        else:
            scratch, sums = crop(pixels, columns, channels, size, kept, turns)
        color(columns, scratch, sums, part, scale, shift, options.per_channel, erase)
        first, last = blurred_before[start], blurred_before[end]
        if first < last:
            blurred = blur_down(plan, first, last - first, start, scratch, radius)
            blur_across(plan, first, start, blurred, part, scale, shift, radius, erase)
            del blurred
        del scratch, sums  # free them before the next chunk
    return out


@torch.library.custom_op("effssl::crop", mutates_args=(), device_types=DEVICE)
def crop(
    pixels: Tensor, plan: Tensor, channels: int, size: int, dtype: torch.dtype, turns: bool
) -> tuple[Tensor, Tensor]:
    """Make brightened crops, (n, C, S, S), and the sums of their tiles, (n, C, tiles) float32."""
    scratch, sums = _cropped(pixels, plan, channels, size, dtype, turns)
    constants = _crop_constants(channels, size)
    grid = (len(scratch) * constants["TILES"],)
    with torch.cuda.device_of(pixels):
        kernels.crop_kernel[grid](
            pixels,
            plan,
            plan.stride(0),
            scratch,
            sums,
            **constants,
            TURNS=turns,
            num_warps=_crop_warps(channels),
        )
    return scratch, sums


@crop.register_fake
def _cropped(
    pixels: Tensor, plan: Tensor, channels: int, size: int, dtype: torch.dtype, turns: bool
) -> tuple[Tensor, Tensor]:
    views, tiles = plan.shape[1], _crop_constants(channels, size)["TILES"]
    scratch = pixels.new_empty((views, channels, size, size), dtype=dtype)
    return scratch, pixels.new_empty((views, channels, tiles), dtype=torch.float32)


def _crop_constants(channels: int, size: int) -> dict[str, int]:
    """Return the compile-time constants of `crop_kernel`."""
    across = ceil(size / TILE_X)
    return {
        "C": channels,
        "CHANNELS": triton.next_power_of_2(channels),
        "SIZE": size,
        "ACROSS": across,
        "TILES": across * ceil(size / TILE_Y),
        "X": TILE_X,
        "Y": TILE_Y,
    }


def _crop_warps(channels: int) -> int:
    """Return the number of warps of `crop_kernel`, which grows with the channels."""
    return min(16, max(4, triton.next_power_of_2(channels)))


def _pixel_constants(channels: int, size: int) -> dict[str, int]:
    """Return the compile-time constants that the other kernels share."""
    return {"C": channels, "SIZE": size, "BLOCKS": ceil(size**2 / BLOCK), "BLOCK": BLOCK}


@torch.library.custom_op("effssl::color", mutates_args=("scratch", "out"), device_types=DEVICE)
def color(
    plan: Tensor,
    scratch: Tensor,
    sums: Tensor,
    out: Tensor,
    scale: Sequence[float],
    shift: Sequence[float],
    per_channel: bool,
    erase: bool,
) -> None:
    """Write the views without blur to `out`, (n, C, S, S); prepare the others in the scratch."""
    views, channels, size, _ = scratch.shape
    constants = _pixel_constants(channels, size)
    with torch.cuda.device_of(scratch):
        kernels.color_kernel[(views * constants["BLOCKS"],)](
            plan,
            plan.stride(0),
            scratch,
            sums,
            out,
            *_strides(out),
            SCALE=tuple(scale),
            SHIFT=tuple(shift),
            PER_CHANNEL=per_channel,
            ERASE=erase,
            TILES=sums.shape[2],
            **constants,
        )


@torch.library.custom_op("effssl::blur_down", mutates_args=(), device_types=DEVICE)
def blur_down(
    plan: Tensor, first: int, count: int, column: int, scratch: Tensor, radius: int
) -> Tensor:
    """Blur `count` views along columns, from `first` in the plan's order, to (count, C, S, S).

    The scratch holds the views of the plan from `column` on.
    """
    blurred = _blurred(plan, first, count, column, scratch, radius)
    channels, size = blurred.shape[1:3]
    constants = _pixel_constants(channels, size)
    with torch.cuda.device_of(scratch):
        blur_kernels.down_kernel[(count * channels * constants["BLOCKS"],)](
            plan,
            plan.stride(0),
            first,
            column,
            scratch,
            blurred,
            RADIUS=radius,
            **constants,
        )
    return blurred


@blur_down.register_fake
def _blurred(
    plan: Tensor, first: int, count: int, column: int, scratch: Tensor, radius: int
) -> Tensor:
    return scratch.new_empty((count, *scratch.shape[1:]))


@torch.library.custom_op("effssl::blur_across", mutates_args=("out",), device_types=DEVICE)
def blur_across(
    plan: Tensor,
    first: int,
    column: int,
    blurred: Tensor,
    out: Tensor,
    scale: Sequence[float],
    shift: Sequence[float],
    radius: int,
    erase: bool,
) -> None:
    """Blur along rows and write to `out`, which holds the views of the plan from `column` on."""
    count, channels, size, _ = blurred.shape
    constants = _pixel_constants(channels, size)
    with torch.cuda.device_of(blurred):
        blur_kernels.across_kernel[(count * constants["BLOCKS"],)](
            plan,
            plan.stride(0),
            first,
            column,
            blurred,
            out,
            *_strides(out),
            SCALE=tuple(scale),
            SHIFT=tuple(shift),
            RADIUS=radius,
            ERASE=erase,
            **constants,
        )


@color.register_fake
@blur_across.register_fake
def _written(*args) -> None:
    return None


def _strides(out: Tensor) -> tuple[int, int, int]:
    """Return the strides of views, channels and pixels; rows must be contiguous."""
    view, channel, row, pixel = out.stride()
    assert row == out.shape[3] * pixel
    return view, channel, pixel

"""Views by PyTorch operations, for the CPU and where the fused kernels cannot run."""

from __future__ import annotations

import torch
from torch import Tensor

from effssl.device import to_device
from effssl.views import _color as color
from effssl.views import _plan as rows
from effssl.views._blur import gaussian_blur, reach
from effssl.views._plan import alike
from effssl.views._resampling import resized_crops
from effssl.views._rotation import rotated_crops
from effssl.views.options import ViewOptions

# Values of the views in a chunk on the CPU, found by timing: enough to amortize about 100 calls,
# few enough to stay in the last-level cache.
CPU_CHUNK = 460_000
DEVICE_BYTES = 256_000_000  # of float32 views or images in a chunk on an accelerator


def render(
    pixels: Tensor,
    plan: Tensor,
    options: ViewOptions,
    *,
    channels: int,
    size: int,
    dtype: torch.dtype,
) -> Tensor:
    """Compute the M views of a plan, in chunks.

    Args:
        pixels: Flat buffer of images: uint8, or float in [0, 1].
        plan: The plan, (P, M) on the CPU.
        options: Options of the views, none None; used for the kind of crop and of contrast, the
            reach of the blur, the normalization and erasing.
        channels: Number of channels, C.
        size: Side of a view in pixels, S.
        dtype: Data type of the views; computed in float64 from float64 pixels, else in float32.

    Returns:
        Normalized views in the order of the plan, (M, C, S, S).
    """
    device, on_cpu = pixels.device, pixels.device.type == "cpu"
    computed = torch.float64 if pixels.dtype == torch.float64 else torch.float32
    mean, std = (
        to_device(torch.tensor(s, dtype=computed).view(-1, 1, 1), device)
        for s in options.channel_stats(channels)
    )
    shift = mean / std
    white = 255 if pixels.dtype == torch.uint8 else 1
    order = alike(plan)
    plan = plan[:, order]
    # not every accelerator has float64: one copy as integers for the boxes, one for the rest
    boxes = to_device(plan[: rows.FLIP + 1].long(), device)
    values = to_device(plan.to(computed), device)
    device_order = to_device(order, device)
    result = torch.empty(len(order), channels, size, size, device=device, dtype=dtype)
    made = result.unbind() if on_cpu else ()
    step = _chunk(plan, channels, size, on_cpu)
    for first in range(0, len(order), step):
        part = slice(first, first + step)
        if options.rotate:
            view = rotated_crops(pixels, plan[:, part], channels, size, options.rotate)
        else:
            view = resized_crops(pixels, plan[:, part], boxes[:, part], channels, size)
        _turn_(view, plan[:, part])
        _adjust_(view, plan[:, part], values[:, part], options, white)
        view.mul_(1 / std)
        if options.erase:
            view = torch.where(_erased(values[:, part], size), shift, view)  # which becomes 0
        if on_cpu:  # index_copy_ copies value by value on the CPU
            for row, image in zip(order[part].tolist(), view.unbind(), strict=True):
                torch.sub(image, shift, out=made[row])
        else:
            result.index_copy_(0, device_order[part], view.sub_(shift).to(dtype))
    return result


def _chunk(plan: Tensor, channels: int, size: int, on_cpu: bool) -> int:
    """Return the number of views of a chunk."""
    if on_cpu:
        return max(1, CPU_CHUNK // (channels * size**2))
    sides = plan[rows.HEIGHT : rows.WIDTH + 1].amax(1) if plan.shape[1] else plan.new_ones(2)
    return max(1, DEVICE_BYTES // (4 * channels * max(size**2, int(sides.prod()))))


def _turn_(view: Tensor, plan: Tensor) -> None:
    """Mirror some views, (N, C, S, S), top to bottom in place, and exchange their axes."""
    for row, change in ((rows.MIRROR, lambda x: x.flip(-2)), (rows.TRANSPOSE, lambda x: x.mT)):
        chosen = plan[row].nonzero()[:, 0]
        if len(chosen):
            chosen = to_device(chosen, view.device)
            view[chosen] = change(view[chosen])


def _erased(values: Tensor, size: int) -> Tensor:
    """Return the pixels of each view that are erased, (N, 1, S, S) bool."""
    top, left, height, width = values[rows.ERASE_TOP : rows.ERASE_WIDTH + 1].unsqueeze(-1)
    step = torch.arange(size, device=values.device)
    y = ((step >= top) & (step < top + height))[:, None, :, None]
    return y & ((step >= left) & (step < left + width))[:, None, None, :]


def _adjust_(view: Tensor, plan: Tensor, values: Tensor, options: ViewOptions, white: int) -> None:
    """Apply the operations between crop and normalization, each where a chunk needs it.

    Args:
        view: Float pixels in [0, white], (N, C, S, S), changed in place to [0, 1].
        plan: Columns of the plan for these N views, on the CPU, in the order of `alike`.
        values: The same columns on the device, in the dtype of the view.
        options: Options of the views; used for per_channel and the reach of the blur.
        white: Value of white pixels, which becomes 1.
    """
    channels = view.shape[1]
    brightness, contrast = values[rows.FACTORS :].split(channels)

    def by_factor(part: slice, factors: Tensor) -> tuple[Tensor, Tensor]:
        if options.per_channel:  # each channel as an image
            return view[part].flatten(0, 1).unsqueeze(1), factors[:, part].T.flatten()
        return view[part], factors[0, part]

    color.adjust_brightness_(*by_factor(slice(None), brightness / white))
    part = _span((plan[rows.FACTORS + channels :] != 1).any(0))
    if part:
        color.adjust_contrast_(*by_factor(part, contrast))
    part = _span(plan[rows.SATURATION] != 1)
    if part:
        color.adjust_saturation_(view[part], values[rows.SATURATION, part])
    for row, change_ in ((rows.HUE, color.adjust_hue_), (rows.GREY, color.grey_out_)):
        part = _span(plan[row] != 0)
        if part:
            change_(view[part], values[row, part])
    part = _span(plan[rows.SIGMA] != 0)
    if part:
        gaussian_blur(view[part], values[rows.SIGMA, part], reach(options), out=view[part])
    part = _span(plan[rows.SOLARIZE] != 0)
    if part:
        color.solarize_(view[part], values[rows.SOLARIZE, part])


def _span(chosen: Tensor) -> slice | None:
    """Return the slice from the first to the last chosen element; None if there is none."""
    places = chosen.nonzero()
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else None

"""Triton kernels of the fused views: crops and colors. `effssl.views._blur_kernels` has the blur.

crop_kernel     crop, resize, flips, quarter turns, brightness; sums over tiles, for the mean that
                contrast needs
color_kernel    contrast, saturation, hue, gray; without blur also solarization, normalization and
                erasing

The scratch between kernels holds planes (n, C, S, S) in float16 or float32; the views may have any
strides. Sums have a fixed order without atomics, so results are reproducible to the bit. `plan` has
one column of float64 for each view and `stride` values from row to row (see `effssl.views._plan`).
Block sizes are fixed, and divide 32, 96 and 224 pixels: tuning at the first call would cost more
than it gains, and differ from run to run.
"""

from __future__ import annotations

import triton
import triton.language as tl

from effssl.views import _color as color
from effssl.views import _plan as rows

TILE_X, TILE_Y = 32, 16  # pixels of a program of crop_kernel
BLOCK = 1024  # pixels of a program of the others

_START, _HEIGHT, _WIDTH = (tl.constexpr(r) for r in (rows.START, rows.HEIGHT, rows.WIDTH))
_TOP, _LEFT = tl.constexpr(rows.TOP), tl.constexpr(rows.LEFT)
_CROP_HEIGHT, _CROP_WIDTH = tl.constexpr(rows.CROP_HEIGHT), tl.constexpr(rows.CROP_WIDTH)
_FLIP, _SATURATION, _HUE = (tl.constexpr(r) for r in (rows.FLIP, rows.SATURATION, rows.HUE))
_GREY, _FACTORS = tl.constexpr(rows.GREY), tl.constexpr(rows.FACTORS)
_MIRROR, _TRANSPOSE = tl.constexpr(rows.MIRROR), tl.constexpr(rows.TRANSPOSE)
_ERASE_TOP, _ERASE_LEFT = tl.constexpr(rows.ERASE_TOP), tl.constexpr(rows.ERASE_LEFT)
_ERASE_HEIGHT, _ERASE_WIDTH = tl.constexpr(rows.ERASE_HEIGHT), tl.constexpr(rows.ERASE_WIDTH)
SIGMA, SOLARIZE = tl.constexpr(rows.SIGMA), tl.constexpr(rows.SOLARIZE)
_RED, _GREEN, _BLUE = (tl.constexpr(share) for share in color.LUMA)


@triton.jit
def clamp(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def _taps(index, length, size: tl.constexpr):
    """Return first source sample, number of samples, center and reach of an output's filter."""
    scale = length / size
    reach = tl.maximum(scale, 1.0)
    center = scale * (index + 0.5)
    first = tl.floor(center - reach - 0.5) + 1
    return first, tl.ceil(2 * reach).to(tl.int32), center, reach


@triton.jit
def _weight(sample, center, reach, length):
    """Return the triangle's weight of a source sample, 0 beyond the edges of the crop."""
    weight = tl.maximum(1 - tl.abs(sample + 0.5 - center) / reach, 0.0)
    return tl.where((sample >= 0) & (sample < length), weight, 0.0)


@triton.jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["pixels", "plan"])
def crop_kernel(
    pixels,
    plan,
    stride,
    scratch,
    sums,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,  # C rounded up to a power of 2
    SIZE: tl.constexpr,
    ACROSS: tl.constexpr,  # tiles side by side
    TILES: tl.constexpr,
    X: tl.constexpr,
    Y: tl.constexpr,
    TURNS: tl.constexpr,  # whether some views are mirrored top to bottom or transposed
):
    """Write the brightened crops to scratch, (n, C, S, S), and their sums, (n, C, TILES)."""
    view = tl.program_id(0) // TILES
    tile = tl.program_id(0) % TILES
    plan += view
    height = tl.load(plan + _CROP_HEIGHT * stride).to(tl.float32)
    width = tl.load(plan + _CROP_WIDTH * stride).to(tl.float32)
    # a buffer may have more than 2^31 bytes, an image may not
    image_width = tl.load(plan + _WIDTH * stride).to(tl.int32)
    plane = tl.load(plan + _HEIGHT * stride).to(tl.int32) * image_width
    corner = tl.load(plan + _TOP * stride).to(tl.int32) * image_width
    corner += tl.load(plan + _LEFT * stride).to(tl.int32)
    pixels += tl.load(plan + _START * stride).to(tl.int64) + corner

    channel = tl.arange(0, CHANNELS)[:, None, None]
    y = tile // ACROSS * Y + tl.arange(0, Y)[None, :, None]
    x = tile % ACROSS * X + tl.arange(0, X)[None, None, :]
    inside = (channel < C) & (y < SIZE) & (x < SIZE)
    source_x = tl.where(tl.load(plan + _FLIP * stride) != 0, SIZE - 1 - x, x)
    source_y = y
    if TURNS:
        source_y = tl.where(tl.load(plan + _MIRROR * stride) != 0, SIZE - 1 - y, y)
    first_y, taps_y, center_y, reach_y = _taps(source_y, height, SIZE)
    first_x, taps_x, center_x, reach_x = _taps(source_x, width, SIZE)

    weight_sum_x = tl.zeros([1, 1, X], tl.float32)
    for tap in range(taps_x):
        weight_sum_x += _weight(first_x + tap, center_x, reach_x, width)
    weight_sum_y = tl.zeros([1, Y, 1], tl.float32)
    total = tl.zeros([CHANNELS, Y, X], tl.float32)
    planes = tl.minimum(channel, C - 1) * plane
    for tap_y in range(taps_y):
        sample_y = first_y + tap_y
        weight_y = _weight(sample_y, center_y, reach_y, height)
        weight_sum_y += weight_y
        # samples beyond an edge have weight 0, but must be read from a valid address
        row = tl.minimum(tl.maximum(sample_y, 0.0), height - 1).to(tl.int32) * image_width
        total_x = tl.zeros([CHANNELS, Y, X], tl.float32)
        for tap_x in range(taps_x):
            sample_x = first_x + tap_x
            column = tl.minimum(tl.maximum(sample_x, 0.0), width - 1).to(tl.int32)
            value = tl.load(pixels + (planes + row + column), mask=inside, other=0).to(tl.float32)
            total_x += _weight(sample_x, center_x, reach_x, width) * value
        total += weight_y * total_x
    # outside the view, tiles at the edge may have no weight at all
    weight_sum = tl.where((y < SIZE) & (x < SIZE), weight_sum_y * weight_sum_x, 1.0)
    factor = tl.load(
        plan + (channel + _FACTORS).to(tl.int64) * stride, mask=channel < C, other=0.0
    ).to(tl.float32)
    value = clamp(total / weight_sum * (factor / 255))
    value = tl.where(inside, value, 0.0)
    pixel = y * SIZE + x
    if TURNS:  # the axes change places where the pixels are written
        pixel = tl.where(tl.load(plan + _TRANSPOSE * stride) != 0, x * SIZE + y, pixel)
    place = (view * C + channel) * (SIZE * SIZE) + pixel
    tl.store(scratch + place, value.to(scratch.dtype.element_ty), mask=inside)
    channel = tl.arange(0, CHANNELS)
    sum_ = tl.sum(tl.sum(value, axis=2), axis=1)
    tl.store(sums + (view * C + channel) * TILES + tile, sum_, mask=channel < C)


@triton.jit
def plan_value(plan, stride, row):
    """Load a value of the view's column of the plan, as float32."""
    return tl.load(plan + row * stride).to(tl.float32)


@triton.jit
def _mean(sums, view, first, count, C: tl.constexpr, TILES: tl.constexpr, SIZE: tl.constexpr):
    """Return the mean over the pixels of channels first to first + count of a view."""
    total = 0.0
    for channel in range(first, first + count):
        for start in range(0, TILES, 128):
            tile = start + tl.arange(0, 128)
            place = (view * C + channel) * TILES + tile
            total += tl.sum(tl.load(sums + place, mask=tile < TILES, other=0.0), axis=0)
    return total / (count * SIZE * SIZE)


@triton.jit
def _contrast(plan, stride, x, mean, channel, C: tl.constexpr):
    factor = plan_value(plan, stride, _FACTORS + C + channel)
    return clamp(x * factor + mean * (1 - factor))


@triton.jit
def _luma(red, green, blue):
    return red * _RED + green * _GREEN + blue * _BLUE


@triton.jit
def _of_hue(hue, own, chroma, darkest):
    return darkest + chroma * clamp(tl.abs(tl.abs(hue - own) - 3) - 1)


@triton.jit
def _turn_hue(red, green, blue, shift):
    """Turn the hue as `effssl.views._color.adjust_hue_`, which explains the formula."""
    brightest = tl.maximum(tl.maximum(red, green), blue)
    darkest = tl.minimum(tl.minimum(red, green), blue)
    chroma = brightest - darkest
    spread = tl.maximum(chroma, 1e-20)
    d = (green - blue) / spread
    q = (brightest - red) / spread
    distance = tl.abs(d)
    distance = distance - 2 * distance * q + 3 * q
    hue = tl.where(d < 0, -distance, distance) + 6 * shift
    hue -= 6 * tl.floor(hue / 6 + 0.5)
    return (
        _of_hue(hue, 0.0, chroma, darkest),
        _of_hue(hue, 2.0, chroma, darkest),
        _of_hue(hue, -2.0, chroma, darkest),
    )


@triton.jit
def finish(x, solarize, scale, shift, left, ERASE: tl.constexpr):
    """Solarize and normalize; erased pixels, which are not left, become 0."""
    x = tl.minimum(x, 2 - solarize - x) * scale - shift
    if ERASE:
        x = tl.where(left, x, 0.0)
    return x


@triton.jit
def not_erased(plan, stride, pixel, SIZE: tl.constexpr, ERASE: tl.constexpr):
    """Return which pixels are left: all unless ERASE is set."""
    left = pixel >= 0
    if ERASE:
        y = pixel // SIZE - plan_value(plan, stride, _ERASE_TOP)
        x = pixel % SIZE - plan_value(plan, stride, _ERASE_LEFT)
        inside_y = (y >= 0) & (y < plan_value(plan, stride, _ERASE_HEIGHT))
        inside_x = (x >= 0) & (x < plan_value(plan, stride, _ERASE_WIDTH))
        left = (inside_y & inside_x) == 0
    return left


@triton.jit
def _change_colors(
    plan,
    stride,
    sums,
    view,
    red,
    green,
    blue,
    PER_CHANNEL: tl.constexpr,
    C: tl.constexpr,
    TILES: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Change contrast, saturation and hue of RGB pixels, and remove the color of some views."""
    mean_red = _mean(sums, view, 0, 1, C, TILES, SIZE)
    mean_green = _mean(sums, view, 1, 1, C, TILES, SIZE)
    mean_blue = _mean(sums, view, 2, 1, C, TILES, SIZE)
    if not PER_CHANNEL:
        mean_red = _luma(mean_red, mean_green, mean_blue)
        mean_green = mean_red
        mean_blue = mean_red
    red = _contrast(plan, stride, red, mean_red, 0, C)
    green = _contrast(plan, stride, green, mean_green, 1, C)
    blue = _contrast(plan, stride, blue, mean_blue, 2, C)
    luma = _luma(red, green, blue)
    saturation = plan_value(plan, stride, _SATURATION)
    red = clamp(luma + (red - luma) * saturation)
    green = clamp(luma + (green - luma) * saturation)
    blue = clamp(luma + (blue - luma) * saturation)
    red, green, blue = _turn_hue(red, green, blue, plan_value(plan, stride, _HUE))
    luma = _luma(red, green, blue)
    grey = plan_value(plan, stride, _GREY)
    red += (luma - red) * grey
    green += (luma - green) * grey
    blue += (luma - blue) * grey
    return red, green, blue


@triton.jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["plan", "out"])
def color_kernel(
    plan,
    stride,
    scratch,
    sums,
    out,
    out_view,  # strides of out
    out_channel,
    out_pixel,
    SCALE: tl.constexpr,  # 1 / std of each channel
    SHIFT: tl.constexpr,  # mean / std
    PER_CHANNEL: tl.constexpr,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    TILES: tl.constexpr,  # of crop_kernel
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    ERASE: tl.constexpr,  # whether some views have an erased box
):
    """Write the views without blur to out; prepare the others for the blur, in the scratch."""
    view = tl.program_id(0) // BLOCKS
    pixel = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < SIZE * SIZE
    plan += view
    scratch += view * (C * SIZE * SIZE) + pixel
    out += view.to(tl.int64) * out_view + pixel * out_pixel
    solarize = plan_value(plan, stride, SOLARIZE)
    # a vector, as the interpreter cannot broadcast a single truth value
    sigma = plan_value(plan, stride, SIGMA) + tl.zeros([BLOCK], tl.float32)
    written, kept = inside & (sigma == 0), inside & (sigma > 0)
    left = not_erased(plan, stride, pixel, SIZE, ERASE)

    if C == 3:
        red = tl.load(scratch, mask=inside, other=0.0).to(tl.float32)
        green = tl.load(scratch + SIZE * SIZE, mask=inside, other=0.0).to(tl.float32)
        blue = tl.load(scratch + 2 * SIZE * SIZE, mask=inside, other=0.0).to(tl.float32)
        red, green, blue = _change_colors(
            plan, stride, sums, view, red, green, blue, PER_CHANNEL, C, TILES, SIZE
        )
        kind = scratch.dtype.element_ty
        tl.store(scratch, red.to(kind), mask=kept)
        tl.store(scratch + SIZE * SIZE, green.to(kind), mask=kept)
        tl.store(scratch + 2 * SIZE * SIZE, blue.to(kind), mask=kept)
        red = finish(red, solarize, SCALE[0], SHIFT[0], left, ERASE)
        green = finish(green, solarize, SCALE[1], SHIFT[1], left, ERASE)
        blue = finish(blue, solarize, SCALE[2], SHIFT[2], left, ERASE)
        kind = out.dtype.element_ty
        tl.store(out, red.to(kind), mask=written)
        tl.store(out + out_channel, green.to(kind), mask=written)
        tl.store(out + 2 * out_channel, blue.to(kind), mask=written)
    else:
        mean = 0.0
        if not PER_CHANNEL:
            mean = _mean(sums, view, 0, C, C, TILES, SIZE)
        for channel in tl.static_range(C):
            if PER_CHANNEL:
                mean = _mean(sums, view, channel, 1, C, TILES, SIZE)
            place = scratch + channel * SIZE * SIZE
            value = tl.load(place, mask=inside, other=0.0).to(tl.float32)
            value = _contrast(plan, stride, value, mean, channel, C)
            tl.store(place, value.to(scratch.dtype.element_ty), mask=kept)
            value = finish(value, solarize, SCALE[channel], SHIFT[channel], left, ERASE)
            tl.store(out + channel * out_channel, value.to(out.dtype.element_ty), mask=written)

"""Launch of the Triton kernels of rotated crops. Importing this module needs Triton."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from effssl.views import _rotation_kernels as kernels
from effssl.views._fallback import DEVICE
from effssl.views._rotation_kernels import TILE_X, TILE_Y


@torch.library.custom_op("effssl::rotated_crop", mutates_args=(), device_types=DEVICE)
def rotated_crop(
    pixels: Tensor, plan: Tensor, channels: int, size: int, margin: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Make brightened crops as `effssl.views._fused.crop`, rotated, with mirrors and turns.

    Args:
        pixels: Flat buffer of uint8 images.
        plan: Columns of a plan, (P, n), on the device of the pixels.
        channels: Number of channels, C.
        size: Side of a view in pixels, S.
        margin: Pixels around a view that rotation can reach.
        dtype: Data type of the crops: float16 or float32.

    Returns:
        Crops, (n, C, S, S), and the sums of their tiles, (n, C, tiles) float32.
    """
    scratch, sums = _rotated(pixels, plan, channels, size, margin, dtype)
    shape = {"C": channels, "SIZE": size, "MARGIN": margin, "X": TILE_X, "Y": TILE_Y}
    planes, side = len(scratch) * channels, size + 2 * margin
    around = scratch.new_empty((planes, side, side))
    with torch.cuda.device_of(pixels):
        tiles = _tiles(side)
        kernels.around_kernel[(planes * tiles["TILES"],)](
            pixels, plan, plan.stride(0), around, **shape, **tiles
        )
        tiles = _tiles(size)
        kernels.turn_kernel[(planes * tiles["TILES"],)](
            around, plan, plan.stride(0), scratch, sums, **shape, **tiles
        )
    return scratch, sums


@rotated_crop.register_fake
def _rotated(
    pixels: Tensor, plan: Tensor, channels: int, size: int, margin: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    views, tiles = plan.shape[1], _tiles(size)["TILES"]
    scratch = pixels.new_empty((views, channels, size, size), dtype=dtype)
    return scratch, pixels.new_empty((views, channels, tiles), dtype=torch.float32)


def _tiles(side: int) -> dict[str, int]:
    """Return how many tiles there are side by side and in all."""
    across = ceil(side / TILE_X)
    return {"ACROSS": across, "TILES": across * ceil(side / TILE_Y)}

"""The fused views where they can be had, with one warning where they cannot."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from effssl.views.options import ViewOptions

logger = logging.getLogger(__name__)

_given_up = False


def try_fused(
    pixels: Tensor,
    plan: Tensor,
    device_plan: Tensor,
    options: ViewOptions,
    *,
    channels: int,
    size: int,
    dtype: torch.dtype,
) -> Tensor | None:
    """Make the views of uint8 pixels by `effssl.views.fused.render`, or return None.

    A device without these kernels gives None. Where Triton is missing, or a kernel fails to build
    or to start, a warning says so, and this process does not try again.
    """
    global _given_up
    if _given_up or dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return None
    try:
        from effssl.views import fused

        if pixels.device.type != fused.DEVICE:
            return None
        return fused.render(
            pixels, plan, device_plan, options, channels=channels, size=size, dtype=dtype
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever compilers and drivers raise
        if pixels.device.type == "cuda":
            _given_up = True
            logger.warning("views are made by slower operations, without Triton's: %s", error)
            return None
        raise

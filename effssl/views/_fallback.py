"""Views by the fused kernels if they are available, else one warning."""

from __future__ import annotations

import logging
import os

import torch
from torch import Tensor

from effssl.views.options import ViewOptions

logger = logging.getLogger(__name__)

# with TRITON_INTERPRET=1 Triton's kernels run as Python, on the CPU
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)

_given_up = False


def try_fused(
    pixels: Tensor,
    plan: Tensor,
    device_plan: Tensor | None,
    options: ViewOptions,
    *,
    channels: int,
    size: int,
    dtype: torch.dtype,
) -> Tensor | None:
    """Compute views by `effssl.views._fused.render`; return None if that is not possible.

    The kernels take uint8 pixels on CUDA and make views of 16 or 32 bits. If Triton is missing, or
    a kernel fails to build or to start, a warning is logged and this process does not try again.
    """
    global _given_up
    if _given_up or pixels.device.type != DEVICE:
        return None
    if pixels.dtype != torch.uint8 or dtype not in DTYPES:
        return None
    try:
        from effssl.views import _fused as fused

        return fused.render(
            pixels, plan, device_plan, options, channels=channels, size=size, dtype=dtype
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever compilers and drivers raise
        _given_up = True
        kind = type(error).__name__
        logger.warning(
            "no Triton kernels for views, which take longer without: %s: %s", kind, error
        )
        return None

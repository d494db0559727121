"""Copies from the host to a device."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device, unless it is there.

    The host does not wait for a copy to CUDA, unless no memory can be pinned for it.
    """
    if device.type != "cuda" or values.device.type == "cuda":
        return values.to(device)
    try:
        values = values.pin_memory()
    except RuntimeError:  # no memory to pin: the copy blocks
        pass
    return values.to(device, non_blocking=True)

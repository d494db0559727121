"""Copies to a device."""

from __future__ import annotations

import torch
from torch import Tensor


def copied(x: Tensor, device: torch.device) -> Tensor:
    """Return ``x`` on a device; the host does not wait for a copy to CUDA, from pinned memory."""
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)

"""Precision and decoding processes of evaluation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch

from effssl.data._workers import worker_count

Precision = Literal["auto", "fp32", "bf16", "fp16"]

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FEW = 2000  # images for which starting workers does not pay


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Resolve ``auto`` for a device: bf16 on a GPU that computes in it, else fp32.

    Raises:
        ValueError: If there is no such precision.
    """
    if precision not in get_args(Precision):
        names = ", ".join(get_args(Precision))
        raise ValueError(f"unknown precision {precision!r}; precisions are {names}")
    if precision != "auto":
        return precision
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(False)
    return "bf16" if has_bf16 else "fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager:
    """Return a context in which modules compute in a resolved precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, _TYPES[precision])


def decoding_workers(workers: int | None, images: int, device: torch.device) -> int:
    """Return the number of decoding processes: as many as given, or a default if None.

    The default is one for each core of this process's share, at most 8; none for fewer than 2,000
    images, or for a model on the CPU, which needs the cores itself.
    """
    if workers is None and (images < _FEW or device.type == "cpu"):
        return 0
    return worker_count(workers)

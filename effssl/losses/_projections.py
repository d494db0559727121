"""Checks of the input of a loss, and its conversion to float32."""

import torch
from torch import Tensor

from effssl.distributed import count_rows


def check_projections(z: Tensor) -> tuple[Tensor, list[int], bool]:
    """Check projections and convert them to float32; float64 stays.

    Args:
        z: Projections, shape (V, N, D).

    Returns:
        The converted projections, the number of images on each process, and whether the input had
        half precision, so that products in TF32 lose nothing (``_tf32.py``).

    Raises:
        TypeError: If z is not a floating-point tensor.
        ValueError: If z is not (V, N, D), V < 2, D < 1 or N < 2 over all processes.
    """
    if not isinstance(z, Tensor) or not z.is_floating_point():
        kind = z.dtype if isinstance(z, Tensor) else type(z).__name__
        raise TypeError(
            f"projections are a floating-point tensor, got {kind}; pass the projector's output"
        )
    if z.dim() != 3:
        raise ValueError(
            f"projections have shape (views, images, dim), got {tuple(z.shape)}; "
            "unflatten the projector's output to (V, N, D)"
        )
    views, rows, dim = z.shape
    if views < 2:
        raise ValueError(
            f"a loss compares 2 or more views of each image, got {views} in shape "
            f"{tuple(z.shape)}; views are the first dimension"
        )
    if dim < 1:
        raise ValueError(f"projections are 1 or more wide, got shape {tuple(z.shape)}")
    counts = count_rows(rows, z.device)
    if sum(counts) < 2:
        raise ValueError(
            f"statistics over the batch need 2 or more images, got {sum(counts)}; "
            "raise the batch size or drop the last incomplete batch"
        )
    half = z.dtype in (torch.float16, torch.bfloat16)
    return z if z.dtype == torch.float64 else z.float(), counts, half


def check_weights(**weights: float) -> None:
    """Raise ValueError if a weight is negative or not a number."""
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} is the weight of a loss term, 0 or more, got {weight}")

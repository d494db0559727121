"""Distances of the views of an image from their mean."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from effssl.distributed import all_reduce_sum
from effssl.losses._blocks import add_up, row_blocks


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return add_up((x - x.mean(0)).square_().sum() for x in row_blocks(z))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        result = torch.empty_like(z)
        for r, x in zip(row_blocks(result), row_blocks(z), strict=True):
            torch.sub(x, x.mean(0), out=r).mul_(2 * grad)
        return result


def view_spread(z: Tensor) -> Tensor:
    """Sum (z - mean over the views of the image)^2 over views, images and dimensions.

    Args:
        z: This process's rows, shape (V, n, D).

    Returns:
        The sum over the rows of all processes, a scalar.
    """
    return all_reduce_sum(_Spread.apply(z))

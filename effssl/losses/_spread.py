"""How far the views of an image lie from their mean."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from effssl.distributed import all_reduce_sum
from effssl.losses._blocks import row_blocks


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return sum((x - x.mean(0)).square_().sum() for x in row_blocks(z))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        result = torch.empty_like(z)
        for r, x in zip(row_blocks(result), row_blocks(z), strict=True):
            torch.sub(x, x.mean(0), out=r).mul_(2 * grad)
        return result


def view_spread(z: Tensor) -> Tensor:
    """Sum over all views, images and dimensions of (z - mean over the views of the image)^2.

    Args:
        z: Shape (V, n, D), this process's rows.

    Returns:
        The sum over the rows of all processes, a scalar.
    """
    return all_reduce_sum(_Spread.apply(z))

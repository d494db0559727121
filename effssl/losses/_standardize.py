"""Standardization of every dimension of every view over the images of all processes."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from effssl.distributed import all_reduce_
from effssl.losses._blocks import add_up, row_blocks


class _Standardize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, images: int, eps: float) -> Tensor:
        out = z - all_reduce_(z.sum(1, keepdim=True)) / images
        squares = all_reduce_(add_up(x.square().sum(1, keepdim=True) for x in row_blocks(out)))
        scale = (squares + images * eps).rsqrt()
        out *= scale
        ctx.save_for_backward(out, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        out, scale = ctx.saved_tensors
        result = torch.empty_like(out)
        blocks = list(zip(row_blocks(result), row_blocks(grad), row_blocks(out), strict=True))
        slope = all_reduce_(
            add_up(torch.mul(g, x, out=r).sum(1, keepdim=True) for r, g, x in blocks)
        )
        for r, g, x in blocks:
            torch.addcmul(g, x, slope, value=-1, out=r).mul_(scale)
        return result, None, None


def standardize(z: Tensor, *, images: int, eps: float = 1e-5) -> Tensor:
    """Center and scale every dimension of every view, so that Z_a^T Z_b is a correlation.

        (z - mean) / sqrt(N (var + eps)), with the population variance (divided by N)

    This is batch normalization without parameters, divided by sqrt(N).

    The gradient is only right for losses of the products Z_a^T Z_b. To first order these do not
    change if a constant is added to a centered view, so the gradient is not centered.

    Args:
        z: This process's rows, shape (V, n, D).
        images: Number of rows of all processes, N.
        eps: Constant added to the variance.
    """
    return _Standardize.apply(z, images, eps)

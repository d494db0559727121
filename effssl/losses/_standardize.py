"""Standardization of every dimension of every view over the images of all processes."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from effssl.distributed import all_reduce_
from effssl.losses._blocks import row_blocks


class _Standardize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, images: int, eps: float) -> Tensor:
        out = z - all_reduce_(z.sum(1, keepdim=True)) / images
        squares = all_reduce_(sum(x.square().sum(1, keepdim=True) for x in row_blocks(out)))
        scale = (squares + images * eps).rsqrt()
        out *= scale
        ctx.save_for_backward(out, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        out, scale = ctx.saved_tensors
        result = torch.empty_like(out)
        blocks = list(zip(row_blocks(result), row_blocks(grad), row_blocks(out), strict=True))
        slope = all_reduce_(sum(torch.mul(g, x, out=r).sum(1, keepdim=True) for r, g, x in blocks))
        for r, g, x in blocks:
            torch.addcmul(g, x, slope, value=-1, out=r).mul_(scale)
        return result, None, None


def standardize(z: Tensor, *, images: int, eps: float = 1e-5) -> Tensor:
    """Centre every dimension of every view and scale it, so that Z_a^T Z_b is a correlation.

        (z - mean) / sqrt(N (var + eps)), with the population variance (divided by N)

    which is batch normalization without parameters, divided by sqrt(N).

    The gradient is that of losses made of the products Z_a^T Z_b: they do not change, to first
    order, where a constant is added to a centred view, and so their gradients need no centring.

    Args:
        z: Shape (V, n, D), this process's rows.
        images: N, the rows of all processes together.
        eps: Added to the variance.
    """
    return _Standardize.apply(z, images, eps)

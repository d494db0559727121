"""Diagonals of the D x D products Z_a^T Z_b of views: one sum over rows for each dimension.

Each function takes this process's rows, z of shape (V, n, D), and sums over the rows of all
processes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from effssl.distributed import all_reduce_sum
from effssl.losses._blocks import add_up, row_blocks


class _OwnDiagonals(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return add_up(x.square().sum(1) for x in row_blocks(z))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return z * (2 * grad[:, None])


class _PairDiagonals(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return add_up(
            torch.cat([(x[a] * x[a + 1 :]).sum(1) for a in range(len(x) - 1)])
            for x in row_blocks(z)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        views, _, dim = z.shape
        factors = z.new_zeros(views, views, 1, dim)  # symmetric, 0 for a view with itself
        for a, later in enumerate(grad.split(list(range(views - 1, 0, -1)))):
            factors[a, a + 1 :, 0] = later
            factors[a + 1 :, a, 0] = later
        result = torch.empty_like(z)
        for r, x in zip(row_blocks(result), row_blocks(z), strict=True):
            torch.mul(x[0], factors[0], out=r)
            for b in range(1, views):
                r.addcmul_(x[b], factors[b])
        return result


class _OtherDiagonals(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return add_up((x * (x.sum(0) - x)).sum(1) for x in row_blocks(z))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        grad = grad[:, None]
        result = torch.empty_like(z)
        for r, x in zip(row_blocks(result), row_blocks(z), strict=True):
            scaled = x * grad
            torch.sub(x.sum(0), x, out=r).mul_(grad).add_(scaled.sum(0)).sub_(scaled)
        return result


def own_diagonals(z: Tensor) -> Tensor:
    """Compute the diagonals of Z_a^T Z_a, shape (V, D)."""
    return all_reduce_sum(_OwnDiagonals.apply(z))


def pair_diagonals(z: Tensor) -> Tensor:
    """Compute the diagonals of Z_a^T Z_b for a < b, shape (V (V - 1) / 2, D).

    The order is that of ``itertools.combinations``.
    """
    return all_reduce_sum(_PairDiagonals.apply(z))


def other_diagonals(z: Tensor) -> Tensor:
    """Compute the diagonals of Z_a^T (sum of the Z_b, b != a), shape (V, D)."""
    return all_reduce_sum(_OtherDiagonals.apply(z))

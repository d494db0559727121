"""Diagonals of the D x D products Z_a^T Z_b of views: one sum over rows for each dimension.

Each function takes this process's rows, z of shape (V, n, D), and sums over the rows of all
processes. With G global views, which come first, pairs of two others do not count.
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
    def forward(ctx: Any, z: Tensor, global_views: int) -> Tensor:
        ctx.save_for_backward(z)
        ctx.firsts = range(min(global_views, len(z) - 1))
        return add_up(
            torch.cat([(x[a] * x[a + 1 :]).sum(1) for a in ctx.firsts]) for x in row_blocks(z)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        views, _, dim = z.shape
        factors = z.new_zeros(views, views, 1, dim)  # symmetric, 0 for a view with itself
        for a, later in enumerate(grad.split([views - 1 - a for a in ctx.firsts])):
            factors[a, a + 1 :, 0] = later
            factors[a + 1 :, a, 0] = later
        result = torch.empty_like(z)
        for r, x in zip(row_blocks(result), row_blocks(z), strict=True):
            torch.mul(x[0], factors[0], out=r)
            for b in range(1, views):
                partners = r if b in ctx.firsts else r[: len(ctx.firsts)]
                partners.addcmul_(x[b], factors[b, : len(partners)])
        return result, None


class _OtherDiagonals(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, global_views: int) -> Tensor:
        ctx.save_for_backward(z)
        ctx.global_views = g = global_views
        return add_up(
            torch.cat([(x[:g] * (x.sum(0) - x[:g])).sum(1), (x[g:] * x[:g].sum(0)).sum(1)])
            for x in row_blocks(z)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        g, grad = ctx.global_views, grad[:, None]
        result = torch.empty_like(z)
        for r, x in zip(row_blocks(result), row_blocks(z), strict=True):
            scaled = x * grad
            torch.sub(x.sum(0), x[:g], out=r[:g]).mul_(grad[:g])
            r[:g].add_(scaled.sum(0)).sub_(scaled[:g])
            torch.mul(x[:g].sum(0), grad[g:], out=r[g:]).add_(scaled[:g].sum(0))
        return result, None


def own_diagonals(z: Tensor) -> Tensor:
    """Compute the diagonals of Z_a^T Z_a, shape (V, D)."""
    return all_reduce_sum(_OwnDiagonals.apply(z))


def pair_diagonals(z: Tensor, global_views: int) -> Tensor:
    """Compute the diagonals of Z_a^T Z_b for a < b and a < G, shape (P, D).

    The order is that of ``itertools.combinations``.
    """
    return all_reduce_sum(_PairDiagonals.apply(z, global_views))


def other_diagonals(z: Tensor, global_views: int) -> Tensor:
    """Compute the diagonals of Z_a^T (sum of the Z_b that count with it, b != a), shape (V, D)."""
    return all_reduce_sum(_OtherDiagonals.apply(z, global_views))

"""Distances of the views of an image from each other."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from effssl.distributed import all_reduce_sum
from effssl.losses._blocks import add_up, row_blocks


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, global_views: int) -> Tensor:
        ctx.save_for_backward(z)
        ctx.global_views, ctx.share = global_views, global_views / len(z)
        return add_up(_distances(x, global_views) for x in row_blocks(z))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        g = ctx.global_views
        result = torch.empty_like(z)
        for r, x in zip(row_blocks(result), row_blocks(z), strict=True):
            torch.sub(x[:g], x.mean(0), out=r[:g]).mul_(2 * grad)
            if g < len(x):
                torch.sub(x[g:], x[:g].mean(0), out=r[g:]).mul_(2 * ctx.share * grad)
        return result, None


def _distances(x: Tensor, global_views: int) -> Tensor:
    squares = (x - x[:global_views].mean(0)).square_()
    if global_views == len(x):
        return squares.sum()
    share = global_views / len(x)
    return squares[:global_views].sum() + share * squares[global_views:].sum()


def view_spread(z: Tensor, global_views: int) -> Tensor:
    """Sum the squared distances of the views of each image that count as pairs, divided by V.

    With G global views, which come first, and m_n their mean of image n, the sum over the pairs of
    which one is global needs no pairs:

        V sum_{v < G} ||z_vn - m_n||^2 + G sum_{v >= G} ||z_vn - m_n||^2

    Args:
        z: This process's rows, shape (V, n, D).
        global_views: Number of global views, G; V for all pairs.

    Returns:
        The sum over the rows of all processes divided by V, a scalar.
    """
    return all_reduce_sum(_Spread.apply(z, global_views))

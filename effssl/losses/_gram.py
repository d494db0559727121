"""Diagonals and squared norms of products of views, in the cheaper of two forms.

For views Z_a of shape (N, D) with Gram matrices G_a = Z_a Z_a^T, shape (N, N),

    ||Z_a^T Z_b||_F^2 = <G_a, G_b>
    sum_{a < b} ||Z_a^T Z_b||_F^2 = (||sum_a G_a||_F^2 - sum_a ||G_a||_F^2) / 2

so V views take V Gram products instead of V (V - 1) / 2 products of size D x D, and the Gram form
makes no D x D matrix. With S_G and S_L the sums of the Gram matrices of the G global views, which
come first, and of the others, the pairs with a global view add up to

    <S_G, S_L> + (||S_G||_F^2 - sum_{a < G} ||G_a||_F^2) / 2
 Each process computes the Gram rows of its own images. The diagonals of the
products are sums over rows.
"""

from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from effssl.distributed import all_reduce_, all_reduce_sum, gather_rows
from effssl.losses._diagonals import own_diagonals, pair_diagonals
from effssl.losses._pairs import count_pairs
from effssl.losses._tf32 import tf32_products

FLOPS_PER_FLOAT_MOVED = 1000
"""FLOPs a process can compute while it sends one float: from 100 on slow CPUs to 4000 on GPUs."""


def gram_is_cheaper(
    *, views: int, counts: list[int], dim: int, across: bool, global_views: int | None = None
) -> bool:
    """Return whether the Gram form costs less than the direct one, forward and backward together.

    On one process it does for N < 0.75 (V - 1) D across views and for N < D within views.

    Args:
        views: Number of views, V.
        counts: Number of rows of each process.
        dim: Width D of the projections.
        across: Whether products are of different views, rather than of each view with itself.
        global_views: Number of views, G, one of which is in each pair; all if None.
    """
    images, processes = sum(counts), len(counts)
    products = count_pairs(views, global_views or views) if across else views
    gram = 4 * views * images * images * dim / processes
    direct = (6 if across else 4) * products * images * dim * dim / processes
    if processes > 1:
        gram += FLOPS_PER_FLOAT_MOVED * views * images * dim
        direct += FLOPS_PER_FLOAT_MOVED * 2 * products * dim * dim
    return gram < direct


class _GramForm(torch.autograd.Function):
    """Compute this process's share of the sum; the gradient is that of the sum over processes."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, counts: list[int], across: bool, global_views: int, tf32: bool
    ) -> Tensor:
        rows = gather_rows(z, max(counts)) if len(counts) > 1 else z
        with tf32_products(tf32, z.device):
            grams = torch.bmm(z, rows.mT)  # (V, n, N)
        leading, others = grams[:global_views], grams[global_views:]
        if across:  # each Gram matrix is replaced by half the sum of those it is paired with
            total = leading.sum(0)
            squares = (total.square().sum() - sum(gram.square().sum() for gram in leading)) / 2
            whole = total
            if len(others):
                of_others = others.sum(0)
                squares = squares + (total * of_others).sum()
                whole = total + of_others
                others.copy_(total)
            torch.sub(whole, leading, out=leading)
            grams.div_(2)
        else:
            squares = sum(gram.square().sum() for gram in grams)
        ctx.save_for_backward(rows, grams)
        ctx.tf32 = tf32
        return squares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        rows, grams = ctx.saved_tensors
        autocast = torch.autocast(rows.device.type, enabled=False)
        with autocast, tf32_products(ctx.tf32, rows.device):
            return torch.bmm(grams * (4 * grad), rows), None, None, None, None


class _DirectForm(torch.autograd.Function):
    """Compute this process's share of both sums; the gradient is that of the sum over processes."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, counts: list[int], across: bool, global_views: int, tf32: bool
    ) -> tuple[Tensor, Tensor]:
        views, _, dim = z.shape
        ctx.pairs = [(v, v) for v in range(views)]
        if across:
            ctx.pairs = [(a, b) for a, b in combinations(range(views), 2) if a < global_views]
        matrices = z.new_empty(len(ctx.pairs), dim, dim)
        with tf32_products(tf32, z.device):
            for (a, b), matrix in zip(ctx.pairs, matrices, strict=True):
                torch.mm(z[a].T, z[b], out=matrix)
        all_reduce_(matrices)
        ctx.save_for_backward(z, matrices)
        ctx.tf32 = tf32
        squares = sum(matrix.square().sum() for matrix in matrices)
        return matrices.diagonal(dim1=1, dim2=2) / len(counts), squares / len(counts)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_diagonals: Tensor, grad_squares: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        z, matrices = ctx.saved_tensors
        matrices = matrices * (2 * grad_squares)
        matrices.diagonal(dim1=1, dim2=2).add_(grad_diagonals)
        result = torch.empty_like(z)
        autocast = torch.autocast(z.device.type, enabled=False)
        with autocast, tf32_products(ctx.tf32, z.device):
            for (a, b), matrix in zip(ctx.pairs, matrices, strict=True):
                if a == b:
                    torch.mm(z[a], matrix, out=result[a]).mul_(2)
                else:  # beta 0 overwrites, at the first product of a view
                    result[a].addmm_(z[b], matrix.T, beta=int((a, b) > (0, 1)))
                    result[b].addmm_(z[a], matrix, beta=int(a > 0))
        return result, None, None, None, None


def cross_products(
    z: Tensor,
    counts: list[int],
    *,
    across: bool,
    global_views: int | None = None,
    tf32: bool = False,
    gram: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute diagonals and squared Frobenius norms of the D x D products of views.

    Args:
        z: This process's rows, shape (V, n, D).
        counts: Number of rows of each process.
        across: Take the P = V (V - 1) / 2 products Z_a^T Z_b of the pairs a < b, in the order of
            ``itertools.combinations``, rather than the P = V products Z_a^T Z_a.
        global_views: Take only pairs with one of the first G views; all pairs if None.
        tf32: On CUDA, multiply in TF32 (``_tf32.py``). The diagonals of the Gram form are no matrix
            products and stay exact.
        gram: Force the Gram form or the direct one; the cheaper one if None.

    Returns:
        The diagonals, shape (P, D), and the sum over products of the squared Frobenius norm, a
        scalar; both for the rows of all processes.
    """
    views, _, dim = z.shape
    global_views = global_views or views
    if gram is None:
        gram = gram_is_cheaper(
            views=views, counts=counts, dim=dim, across=across, global_views=global_views
        )
    if gram:
        diagonals = pair_diagonals(z, global_views) if across else own_diagonals(z)
        squares = _GramForm.apply(z, counts, across, global_views, tf32)
        return diagonals, all_reduce_sum(squares)
    diagonals, squares = _DirectForm.apply(z, counts, across, global_views, tf32)
    return all_reduce_sum(diagonals), all_reduce_sum(squares)

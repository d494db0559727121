"""Sum over the views of all other images, for contrastive losses, in blocks of rows."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from effssl.distributed import gather_views
from effssl.losses import _blocks
from effssl.losses._tf32 import tf32_products


class _LogSumOfNegatives(torch.autograd.Function):
    """The gradient is that of the sum over processes.

    With s_ij the similarity of rows i and j of different images, l_i the log of the sum and g_i its
    gradient, the gradient of row i needs those of all rows but no gradient of another process:

        sum_j (g_i exp(s_ij - l_i) + g_j exp(s_ij - l_j)) z_j / t
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, counts: list[int], temperature: float, tf32: bool) -> Tensor:
        rows = gather_views(z, counts)
        sums = z.new_empty(z.shape[:2])
        flat, kept = sums.view(-1), None
        for block, similarities in _similarities(z, rows, counts, temperature, tf32):
            flat[block] = similarities.logsumexp(1)
            if len(similarities) == len(flat):  # one block is not computed again
                kept = similarities
        ctx.save_for_backward(z, rows, sums, kept)
        ctx.counts, ctx.temperature, ctx.tf32 = counts, temperature, tf32
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        z, rows, sums, kept = ctx.saved_tensors
        both = torch.stack([sums, grad], dim=2)  # (V, n, 2)
        all_sums, all_grads = gather_views(both, ctx.counts).flatten(0, 1).unbind(1)
        own_sums, own_grads = both.view(-1, 2, 1).unbind(1)
        result = torch.empty_like(z, memory_format=torch.contiguous_format)
        flat = result.view(-1, z.shape[-1])
        autocast = torch.autocast(z.device.type, enabled=False)
        with autocast, tf32_products(ctx.tf32, z.device):
            blocks = _similarities(z, rows, ctx.counts, ctx.temperature, ctx.tf32)
            for block, similarities in blocks if kept is None else [(slice(None), kept)]:
                weights = (similarities - own_sums[block]).exp_().mul_(own_grads[block])
                weights += (similarities - all_sums).exp_().mul_(all_grads)
                torch.mm(weights, rows.flatten(0, 1), out=flat[block])
        return result.div_(ctx.temperature), None, None, None


def _similarities(
    z: Tensor, rows: Tensor, counts: list[int], temperature: float, tf32: bool
) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of the similarities of this process's rows with all, -inf for an image's own.

    Args:
        z: Rows of this process, shape (V, n, D).
        rows: Rows of all processes, shape (V, N, D).
        counts: Number of images of each process.
        temperature: Divides the products.
        tf32: On CUDA, multiply in TF32 (``_tf32.py``).

    Yields:
        A range of the V n rows, and their similarities, shape (rows, V N).
    """
    views, images, _ = rows.shape
    first = sum(counts[: dist.get_rank()]) if len(counts) > 1 else 0
    image_of = torch.arange(first, first + z.shape[1], device=z.device).repeat(views)
    length = max(1, _blocks.elements(z) // (views * images))
    flat, transposed = z.reshape(-1, z.shape[-1]), rows.reshape(-1, z.shape[-1]).T
    for start in range(0, len(flat), length):
        block = slice(start, min(start + length, len(flat)))
        with tf32_products(tf32, z.device):
            similarities = (flat[block] @ transposed).div_(temperature)
        own = image_of[block, None, None].expand(-1, views, 1)
        similarities.view(-1, views, images).scatter_(2, own, -torch.inf)
        yield block, similarities


def log_sum_of_negatives(
    z: Tensor, counts: list[int], temperature: float, *, tf32: bool = False
) -> Tensor:
    """Compute log sum_{u, m != n} exp(<z_vn, z_um> / t) for every view v of an image n.

    The similarities are computed block by block, and again in the backward pass, unless they fit
    into one block.

    Args:
        z: This process's projections of unit length, shape (V, n, D).
        counts: Number of images of each process.
        temperature: t.
        tf32: On CUDA, multiply in TF32 (``_tf32.py``).

    Returns:
        The logarithms for this process's rows, shape (V, n). If all processes compute the same loss
        from them, the gradient that reaches this process's rows is that of the sum over processes.
    """
    return _LogSumOfNegatives.apply(z, counts, temperature, tf32)

"""Sums behind empirical characteristic functions of projections on directions, in blocks."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from effssl.losses import _blocks
from effssl.losses._tf32 import tf32_products


class _CharacteristicSums(torch.autograd.Function):
    """exp(i k h x) is the k-th power of exp(i h x), both ways."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, a: Tensor, step: float, knots: int, tf32: bool) -> Tensor:
        ctx.save_for_backward(z, a)
        ctx.step, ctx.tf32 = step, tf32
        sums = z.new_empty(len(z), a.shape[1], knots, 2)
        for block, base in _bases(z, a, step, tf32):
            power = base.clone()
            for k in range(knots):
                if k:
                    power.mul_(base)
                sums[:, block, k] = torch.view_as_real(power.sum(1))
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        z, a = ctx.saved_tensors
        grad = torch.view_as_complex(grad.contiguous()).conj()  # (V, M, K)
        orders = torch.arange(1, grad.shape[-1] + 1, device=grad.device)
        slopes = grad * (1j * ctx.step) * orders  # the derivative of exp(i k h x) is i k h times it
        result = torch.zeros_like(z, memory_format=torch.contiguous_format)
        autocast = torch.autocast(z.device.type, enabled=False)
        with autocast, tf32_products(ctx.tf32, z.device):
            for block, base in _bases(z, a, ctx.step, ctx.tf32):
                slope = slopes[:, None, block]
                total = slope[..., -1].expand_as(base).mul(base)  # by Horner's rule
                for k in reversed(range(grad.shape[-1] - 1)):
                    total.add_(slope[..., k]).mul_(base)
                flat = total.real.flatten(0, 1)
                result.view(-1, z.shape[-1]).addmm_(flat, a[:, block].T)
        return result, None, None, None, None


def _bases(z: Tensor, a: Tensor, step: float, tf32: bool) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of directions, and exp(i h <a, z_vn>), complex, shape (V, n, directions)."""
    views, rows, _ = z.shape
    length = max(1, _blocks.elements(z) // (8 * max(1, views * rows)))  # of several temporaries
    for start in range(0, a.shape[1], length):
        block = slice(start, min(start + length, a.shape[1]))
        with tf32_products(tf32, z.device):
            angles = (z @ a[:, block]).mul_(step)
        yield block, torch.complex(angles.cos(), angles.sin())


def characteristic_sums(
    z: Tensor, a: Tensor, *, step: float, knots: int, tf32: bool = False
) -> Tensor:
    """Sum exp(i k h <a_m, z_vn>) over this process's images, for k = 1, ..., K.

    Powers are computed for a block of directions at a time, and again in the backward pass.

    Args:
        z: This process's rows, shape (V, n, D).
        a: Directions, shape (D, M).
        step: h.
        knots: K.
        tf32: On CUDA, multiply in TF32 (``_tf32.py``).

    Returns:
        Real and imaginary parts, the sums of cosines and of sines, shape (V, M, K, 2).
    """
    return _CharacteristicSums.apply(z, a, step, knots, tf32)

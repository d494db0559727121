"""Coding-rate loss of EMP-SSL for two or more views of each image.

Tong, Chen, Ma, LeCun, "EMP-SSL: Towards Self-Supervised Learning in One Training Epoch", 2023,
https://arxiv.org/abs/2304.03977.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from effssl.distributed import all_reduce_, all_reduce_sum, gather_rows
from effssl.losses._pairs import check_global_views
from effssl.losses._projections import check_projections, check_weights
from effssl.losses._tf32 import tf32_products
from effssl.losses._unit_rows import unit_rows


class _Rate(torch.autograd.Function):
    """Compute this process's share of the rate; the gradient is that of the sum over processes.

    The matrix is that of dimensions or, if it is smaller, that of images, I + a Z Z^T, which has
    the same determinant. The rows of zeros that pad the images do not change it.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, counts: list[int], eps: float, tf32: bool) -> Tensor:
        views, _, dim = z.shape
        longest = max(counts)
        ctx.by_images = len(counts) * longest < dim
        ctx.scale, ctx.tf32 = dim / (sum(counts) * eps), tf32
        rows = gather_rows(z, longest) if ctx.by_images and len(counts) > 1 else z
        with tf32_products(tf32, z.device):
            matrices = torch.bmm(rows, rows.mT) if ctx.by_images else torch.bmm(z.mT, z)
        if not ctx.by_images:
            all_reduce_(matrices)
        matrices.mul_(ctx.scale).diagonal(dim1=1, dim2=2).add_(1)
        factors, _ = torch.linalg.cholesky_ex(matrices)  # it does not wait for the device
        first = dist.get_rank() * longest if len(counts) > 1 else 0
        ctx.own = slice(first, first + z.shape[1])
        ctx.save_for_backward(rows, factors)
        return factors.diagonal(dim1=1, dim2=2).log().sum() / (views * len(counts))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        rows, factors = ctx.saved_tensors
        autocast = torch.autocast(rows.device.type, enabled=False)
        with autocast, tf32_products(ctx.tf32, rows.device):
            identity = torch.eye(factors.shape[-1], dtype=factors.dtype, device=factors.device)
            roots = torch.linalg.solve_triangular(factors, identity, upper=False)
            if ctx.by_images:
                result = torch.bmm(torch.bmm(roots[:, :, ctx.own].mT, roots), rows)
            else:
                result = torch.bmm(rows, torch.bmm(roots.mT, roots))
            result *= grad * ctx.scale / len(rows)
        return result, None, None, None


def coding_rate(
    z: Tensor,
    *,
    eps: float = 0.2,
    invariance: float = 200.0,
    global_views: int | None = None,
    return_parts: bool = False,
) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
    """Keep views close to their mean in angle, and let each view fill all directions.

    With Z_v the projections of view v, every row scaled to length 1, and m_n the mean of the rows
    of image n over the views,

        R_max - mean_v 1/2 logdet(I + D / (N eps) Z_v^T Z_v)
        + invariance * mean_{v, n} (1 - cos(z_vn, m_n))

    The mean of the logdet is the coding rate: how much it takes to tell the rows of a view apart up
    to a squared error of eps. It is at most R_max, K/2 log(1 + D / (K eps)) with K = min(N, D), for
    rows that are spread evenly over K directions; so the loss is 0 at best.

    This equals the code of Tong et al., whose network scales the rows, up to the constant R_max +
    invariance. Their code does not square its eps of 0.2, where the paper has eps^2, so that eps
    is the squared error here too. They train with LARS.

    With G global views m_n is the mean of those, and every view is compared with it; the coding
    rate stays the mean over all views.

    Args:
        z: Projections, shape (V, N, D), of V >= 2 views. With several processes each passes its
            own images, and all get the loss over the N >= 2 images of all processes.
        eps: Squared error, the paper's eps^2, > 0.
        invariance: Weight of the cosines, >= 0.
        global_views: Number of global views, G, which come first in z; all if None.
        return_parts: Also return detached terms that are 0 at best: "invariance", 1 minus the
            mean cosine, and "rate", the share of R_max that is missing.

    Returns:
        The loss, a scalar in float32 (float64 for float64), or the loss and its parts.

    Raises:
        TypeError: If z is not a floating-point tensor.
        ValueError: If z is not (V, N, D) with V >= 2 and N >= 2, eps is not above 0, invariance is
            negative, or global_views is not from 1 to V.
    """
    z, counts, half = check_projections(z)
    with torch.autocast(z.device.type, enabled=False):
        if not eps > 0:
            raise ValueError(f"eps is a squared error, above 0, got {eps}")
        check_weights(invariance=invariance)
        views, _, dim = z.shape
        images = sum(counts)
        g = check_global_views(global_views, views)
        z = unit_rows(z)
        cosines = (z.mean(0) * unit_rows(z[:g].mean(0))).sum()
        own = torch.stack([_Rate.apply(z, counts, eps, half), cosines / images])
        rate, cosine = all_reduce_sum(own)
        rank = min(images, dim)
        largest = rank / 2 * math.log1p(dim / (rank * eps))
        loss = largest - rate + invariance * (1 - cosine)
    if not return_parts:
        return loss
    return loss, {"invariance": 1 - cosine.detach(), "rate": 1 - rate.detach() / largest}

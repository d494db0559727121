"""SimCLR's contrastive loss, NT-Xent, for two or more views of each image.

Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual
Representations", ICML 2020, https://arxiv.org/abs/2002.05709.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from effssl.device import to_device
from effssl.distributed import all_reduce_sum
from effssl.losses._negatives import log_sum_of_negatives
from effssl.losses._pairs import check_global_views, count_pairs
from effssl.losses._projections import check_projections
from effssl.losses._unit_rows import unit_rows


def simclr(
    z: Tensor,
    *,
    temperature: float = 0.2,
    positive_prior: float = 0.0,
    global_views: int | None = None,
    return_parts: bool = False,
) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
    """Tell each view's partners from the views of all other images.

    With s the cosine of two projections, t the temperature and R_vn the sum over all views u and
    all other images m of exp(s(vn, um) / t), the loss is the mean over images n and ordered pairs
    of views v != w of

        -log( exp(s(vn, wn) / t) / (exp(s(vn, wn) / t) + R_vn) )

    V = 2 is NT-Xent, Eq. 1 of Chen et al. A third view is no negative of its own image, and the
    other positives of an image do not compete with each other.

    With a positive_prior p > 0, the chance that another image is of the same class, R_vn is the
    estimate of Chuang et al., "Debiased Contrastive Learning", NeurIPS 2020
    (https://arxiv.org/abs/2007.00224), Eq. 8, from the K = V (N - 1) negatives and all partners of
    a view; for V = 2 it equals their code:

        K max( (R_vn / K - p mean_w exp(s(vn, wn) / t)) / (1 - p), exp(-1 / t) )

    The similarities are computed a block of rows at a time, and again in the backward pass if they
    do not fit into one, so that the memory does not grow with (V N)^2. The time is that of two or
    three products of V N x D x V N.

    With G global views only pairs with a global view count; negatives are views of all kinds.

    Args:
        z: Projections, shape (V, N, D), of V >= 2 views. With several processes each passes its
            own images, and all get the loss over the N >= 2 images of all processes.
        temperature: Scale of the cosines, t > 0. A smaller one looks at the nearest negatives.
        positive_prior: Share of the other images that are of the same class, p, from 0 to below 1.
        global_views: Number of global views, G, which come first in z; pairs of two others do not
            count. All pairs count if None.
        return_parts: Also return the detached parts "invariance", the mean over pairs of
            1 - s(vn, wn), and "uniformity", the mean over views of the mean over negatives of
            exp((s(vn, um) - 1) / t).

    Returns:
        The loss, a scalar in float32 (float64 for float64), or the loss and its parts.

    Raises:
        TypeError: If z is not a floating-point tensor.
        ValueError: If z is not (V, N, D) with V >= 2 and N >= 2, temperature is not positive,
            positive_prior is not from 0 to below 1, or global_views is not from 1 to V.
    """
    z, counts, half = check_projections(z)
    if not temperature > 0:
        raise ValueError(f"temperature divides the cosines, above 0, got {temperature}")
    if not 0 <= positive_prior < 1:
        raise ValueError(f"positive_prior is a share, from 0 to below 1, got {positive_prior}")
    with torch.autocast(z.device.type, enabled=False):
        views, rows, _ = z.shape
        images = sum(counts)
        g = check_global_views(global_views, views)
        negatives = views * (images - 1)
        z = unit_rows(z)
        positive = _ProductsOfViews.apply(z) / temperature  # (n, V, V)
        counted = to_device(_counted_pairs(views, g), z.device)
        negative = log_sum_of_negatives(z, counts, temperature, tf32=half).T  # (n, V)
        found = negative
        if positive_prior:
            found = _debiased(negative, positive, counted, negatives, temperature, positive_prior)
        terms = F.softplus(found[:, :, None] - positive)
        pairs = 2 * count_pairs(views, g) * images
        loss = all_reduce_sum((terms * counted).sum()) / pairs
    if not return_parts:
        return loss
    with torch.no_grad():
        cosines = (positive * counted).sum() * temperature
        means = (negative - 1 / temperature).exp().sum() / negatives
        cosines, means = all_reduce_sum(torch.stack([cosines, means]))
    return loss, {"invariance": 1 - cosines / pairs, "uniformity": means / (views * images)}


class _ProductsOfViews(torch.autograd.Function):
    """Compute the products of the views of each image, shape (n, V, V), without autocast."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        of_images = z.transpose(0, 1)
        return of_images @ of_images.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        with torch.autocast(z.device.type, enabled=False):
            return ((grad + grad.mT) @ z.transpose(0, 1)).transpose(0, 1)


def _counted_pairs(views: int, global_views: int) -> Tensor:
    """Return 1 for each ordered pair of two views that counts, else 0, shape (V, V)."""
    is_global = torch.arange(views) < global_views
    return ((is_global[:, None] | is_global) & ~torch.eye(views, dtype=torch.bool)).float()


def _debiased(
    negative: Tensor,
    positive: Tensor,
    counted: Tensor,
    negatives: int,
    temperature: float,
    prior: float,
) -> Tensor:
    """Estimate the log of the sum of negatives without those of the same class, shape (n, V)."""
    partners = counted.sum(1)
    mean_negative = negative - math.log(negatives)
    positive = positive.masked_fill(counted == 0, -torch.inf)
    # relative to the larger of both, so that nothing overflows at a small temperature
    top = torch.maximum(mean_negative, positive.amax(2)).detach()
    ours = (positive - top[:, :, None]).exp().sum(2) / partners
    estimate = ((mean_negative - top).exp() - prior * ours) / (1 - prior)
    least = (-1 / temperature - top).exp().clamp(min=torch.finfo(top.dtype).tiny)
    return torch.maximum(estimate, least).log() + top + math.log(negatives)

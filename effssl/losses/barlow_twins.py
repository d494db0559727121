"""Barlow Twins for two or more views of each image.

Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021,
https://arxiv.org/abs/2103.03230; for more views Agrawal et al., "Harnessing small projectors and
multiple views for efficient vision pretraining", NeurIPS 2024, https://arxiv.org/abs/2312.10725.
"""

from typing import Literal

import torch
from torch import Tensor

from effssl.loss_weights import barlow_twins_lambd
from effssl.losses._diagonals import other_diagonals
from effssl.losses._gram import cross_products
from effssl.losses._pairs import check_global_views
from effssl.losses._projections import check_projections, check_weights
from effssl.losses._standardize import standardize


def barlow_twins(
    z: Tensor,
    *,
    lambd: float | None = None,
    multiview: Literal["pairs", "mean"] = "pairs",
    global_views: int | None = None,
    return_parts: bool = False,
) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
    """Pull the cross-correlation of the views of a batch toward the identity.

    With Z_v the projections of view v, each dimension standardized over the N images by the
    population standard deviation (eps 1e-5 added to the variance, as in batch normalization), and
    C_ab = Z_a^T Z_b / N, the loss is

        sum_i (1 - C_ii)^2 + lambd * sum_{i != j} C_ij^2

    "pairs": the mean of this over the V (V - 1) / 2 pairs a < b. V = 2 is Eq. 1 of Zbontar et al.
    and equals their code.

    "mean": with m the mean of the Z_v and C_v the mean of the C_vb over b != v,

        mean_v sum_i (1 - (C_v)_ii)^2 + lambd * sum_{i != j} ((m^T m / N)_ij)^2

    which takes one D x D product for any V. It differs from Agrawal et al.'s code in two points.
    The first term compares a view with the mean of the other views, not with m, which contains the
    view itself: that would scale the term by ((V - 1) / V)^2 and change the meaning of lambd with
    V. Each view is standardized by itself, not all views jointly.

    With G global views only pairs with a global view count. In "mean" a view that is not global is
    then compared with the mean of the global ones, and the redundancy is that of the product of
    m_G, the mean of the global ones, and m: sum_{i != j} ((m_G^T m / N)_ij)^2.

    Args:
        z: Projections, shape (V, N, D), of V >= 2 views. With several processes each passes its
            own images, and all get the loss over the N >= 2 images of all processes.
        lambd: Weight of the redundancy term, >= 0; if None it follows from D, see
            `effssl.loss_weights`.
        multiview: "pairs" or "mean".
        global_views: Number of global views, G, which come first in z; pairs of two others do not
            count. All pairs count if None.
        return_parts: Also return the detached terms divided by D, "invariance" and "redundancy":
            loss = D * (invariance + lambd * redundancy).

    Returns:
        The loss, a scalar in float32 (float64 for float64), or the loss and its parts.

    Raises:
        TypeError: If z is not a floating-point tensor.
        ValueError: If z is not (V, N, D) with V >= 2 and N >= 2, lambd is negative, multiview is
            unknown, or global_views is not from 1 to V.
    """
    if multiview not in ("pairs", "mean"):
        raise ValueError(f"multiview is 'pairs' or 'mean', got {multiview!r}")
    z, counts, half = check_projections(z)
    with torch.autocast(z.device.type, enabled=False):
        views, _, dim = z.shape
        lambd = barlow_twins_lambd(dim) if lambd is None else lambd
        check_weights(lambd=lambd)
        g = check_global_views(global_views, views)
        z = standardize(z, images=sum(counts))  # so that C_ab = Z_a^T Z_b
        if multiview == "pairs":
            diagonals, squares = cross_products(z, counts, across=True, global_views=g, tf32=half)
            invariance = (1 - diagonals).square().sum() / len(diagonals)
            redundancy = (squares - diagonals.square().sum()) / len(diagonals)
        else:
            sums = other_diagonals(z, g)  # (V, D)
            to_others = torch.cat([sums[:g] / (views - 1), sums[g:] / g])
            invariance = (1 - to_others).square().sum() / views
            means = z.mean(0, keepdim=True)
            if g < views:
                means = torch.cat([z[:g].mean(0, keepdim=True), means])
            diagonals, squares = cross_products(means, counts, across=g < views, tf32=half)
            redundancy = squares - diagonals.square().sum()
        loss = invariance + lambd * redundancy
    if not return_parts:
        return loss
    return loss, {"invariance": invariance.detach() / dim, "redundancy": redundancy.detach() / dim}

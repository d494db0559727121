"""Spectral loss: the common core of Barlow Twins, VICReg and similar losses.

Agrawal et al., "Harnessing small projectors and multiple views for efficient vision pretraining",
NeurIPS 2024, https://arxiv.org/abs/2312.10725.
"""

import torch
from torch import Tensor

from effssl.distributed import all_reduce_
from effssl.losses._gram import cross_products
from effssl.losses._pairs import check_global_views, mean_partners
from effssl.losses._projections import check_projections, check_weights
from effssl.losses._spread import view_spread


def spectral(
    z: Tensor,
    *,
    beta: float = 1.0,
    global_views: int | None = None,
    return_parts: bool = False,
) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
    """Keep views close to their mean, and dimensions orthonormal over the data.

    With zc the projections centered over all V N rows, m_n the mean of zc over the views of image n
    and S = sum zc zc^T / (V N), shape (D, D):

        sum_{v, n} ||zc_vn - m_n||^2 / (N (V - 1)) + beta * ||S - I||_F^2

    Let T_M be the operator that averages a function over the augmentations of an image. The first
    term is an unbiased estimate of <f, (1 - T_M) f>, and centering removes the constant
    eigenfunction. The minimizer spans the top eigenfunctions of T_M, and S then has eigenvalues

        max(0, 1 - (1 - lambda_i) / (2 beta))    for the eigenvalues lambda_i of T_M

    so eigenfunction i is used only if beta > (1 - lambda_i) / 2: a larger beta uses more
    dimensions. Neither this threshold nor the default depends on D. beta = 1/2 is the spectral
    contrastive loss up to a constant. The loss is invariant to rotations of the D dimensions.

    The first term is half the mean squared distance of two views of an image, over all pairs, or
    with G global views over the pairs with a global view. S is that of all views.

    Args:
        z: Projections, shape (V, N, D), of V >= 2 views. With several processes each passes its
            own images, and all get the loss over the N >= 2 images of all processes.
        beta: Weight of the orthogonality term, >= 0.
        global_views: Number of global views, G, which come first in z; pairs of two others do not
            count. All pairs count if None.
        return_parts: Also return the detached terms divided by D, "invariance" and
            "orthogonality": loss = D * (invariance + beta * orthogonality).

    Returns:
        The loss, a scalar in float32 (float64 for float64), or the loss and its parts.

    Raises:
        TypeError: If z is not a floating-point tensor.
        ValueError: If z is not (V, N, D) with V >= 2 and N >= 2, beta is negative, or global_views
            is not from 1 to V.
    """
    z, counts, half = check_projections(z)
    with torch.autocast(z.device.type, enabled=False):
        check_weights(beta=beta)
        views, _, dim = z.shape
        images = sum(counts)
        g = check_global_views(global_views, views)
        invariance = view_spread(z, g) / (images * mean_partners(views, g))
        # To first order the products of centered rows do not depend on the mean: no gradient.
        z = z - all_reduce_(z.detach().sum((0, 1))) / (views * images)
        z = z.flatten(0, 1)[None]  # (1, V*N, D)
        counts = [views * count for count in counts]
        diagonals, squares = cross_products(z, counts, across=False, tf32=half)
        trace = diagonals.sum() / (views * images)
        orthogonality = squares / (views * images) ** 2 - 2 * trace + dim
        loss = invariance + beta * orthogonality
    if not return_parts:
        return loss
    parts = {"invariance": invariance, "orthogonality": orthogonality}
    return loss, {name: part.detach() / dim for name, part in parts.items()}

"""VICReg for two or more views of each image.

Bardes, Ponce, LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
Learning", ICLR 2022, https://arxiv.org/abs/2105.04906.
"""

import torch
from torch import Tensor

from effssl.distributed import all_reduce_
from effssl.loss_weights import vicreg_weight
from effssl.losses._gram import cross_products
from effssl.losses._pairs import check_global_views, mean_partners
from effssl.losses._projections import check_projections, check_weights
from effssl.losses._spread import view_spread


def vicreg(
    z: Tensor,
    *,
    invariance: float | None = None,
    variance: float | None = None,
    covariance: float = 1.0,
    global_views: int | None = None,
    return_parts: bool = False,
) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
    """Keep views alike, dimensions of unit variance or more, and dimensions uncorrelated.

    The loss is the mean of the two-view loss over the V (V - 1) / 2 pairs of views, computed
    without pairs. With z_v the projections of view v, m their mean over views, and cov_v the
    covariance of view v over the N images (divided by N - 1):

        invariance * 2 / (V - 1) * sum_v mse(z_v, m)
        + variance * mean_v mean_i max(0, 1 - sqrt((cov_v)_ii + 1e-4))
        + covariance * 2 * mean_v sum_{i != j} ((cov_v)_ij)^2 / D

    V = 2 is Eq. 6 of Bardes et al. and equals their code, which averages the two variance terms and
    adds the two covariance terms.

    With G global views the invariance is the mean of the squared distance over the pairs with a
    global view, again without pairs; variance and covariance stay means over all views. VICRegL
    (Bardes, Ponce, LeCun, NeurIPS 2022, https://arxiv.org/abs/2210.01571) compares its crops so,
    and counts the pairs of two global views twice.

    Args:
        z: Projections, shape (V, N, D), of V >= 2 views. With several processes each passes its
            own images, and all get the loss over the N >= 2 images of all processes.
        invariance: Weight, >= 0; if None it follows from D, see `effssl.loss_weights`.
        variance: Weight, >= 0; if None it follows from D, see `effssl.loss_weights`.
        covariance: Weight, >= 0.
        global_views: Number of global views, G, which come first in z; pairs of two others do not
            count. All pairs count if None.
        return_parts: Also return the detached terms without weights, "invariance", "variance" and
            "covariance", each a mean over dimensions.

    Returns:
        The loss, a scalar in float32 (float64 for float64), or the loss and its parts.

    Raises:
        TypeError: If z is not a floating-point tensor.
        ValueError: If z is not (V, N, D) with V >= 2 and N >= 2, a weight is negative, or
            global_views is not from 1 to V.
    """
    z, counts, half = check_projections(z)
    with torch.autocast(z.device.type, enabled=False):
        views, _, dim = z.shape
        images = sum(counts)
        invariance = vicreg_weight(dim) if invariance is None else invariance
        variance = vicreg_weight(dim) if variance is None else variance
        check_weights(invariance=invariance, variance=variance, covariance=covariance)
        g = check_global_views(global_views, views)
        spread = view_spread(z, g) * 2 / (mean_partners(views, g) * images * dim)
        # To first order the products of centered views do not depend on the mean: no gradient.
        z = z - all_reduce_(z.detach().sum(1, keepdim=True)) / images
        diagonals, squares = cross_products(z, counts, across=False, tf32=half)
        variances = diagonals / (images - 1)  # (V, D)
        hinge = (1 - (variances + 1e-4).sqrt()).relu().mean()
        off_diagonal = squares / (images - 1) ** 2 - variances.square().sum()
        redundancy = off_diagonal * 2 / (views * dim)
        loss = invariance * spread + variance * hinge + covariance * redundancy
    if not return_parts:
        return loss
    parts = {"invariance": spread, "variance": hinge, "covariance": redundancy}
    return loss, {name: part.detach() for name, part in parts.items()}

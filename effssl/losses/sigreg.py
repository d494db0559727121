"""SIGReg, the loss of LeJEPA, for two or more views of each image.

Balestriero, LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the
Heuristics", 2025, https://arxiv.org/abs/2511.08544.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from effssl.device import to_device
from effssl.distributed import all_reduce_sum, from_first_process
from effssl.loss_weights import sigreg_lambd
from effssl.losses._characteristic import characteristic_sums
from effssl.losses._pairs import check_global_views
from effssl.losses._projections import check_projections

KNOTS = 8
"""Points above 0 at which characteristic functions are compared."""
LAST_KNOT = 5.0


def sigreg(
    z: Tensor,
    *,
    lambd: float | None = None,
    directions: int = 256,
    generator: torch.Generator | None = None,
    global_views: int | None = None,
    return_parts: bool = False,
) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
    """Keep views close to their mean, and projections distributed as an isotropic Gaussian.

    With m_n the mean of the views of image n, the loss is

        (1 - lambd) mean_v mean_n ||z_vn - m_n||^2 / D + lambd mean_v mean_a T_va

    where a are random directions of unit length, and T_va is the statistic of Epps and Pulley for
    the N numbers <a, z_vn>: with phi_va(t) the mean over n of exp(i t <a, z_vn>), their empirical
    characteristic function, and exp(-t^2 / 2), that of a standard normal variable,

        T_va = N int |phi_va(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt    from -5 to 5

    by the trapezoidal rule on 17 knots. All of it follows Algorithms 1 and 2 of Balestriero and
    LeCun. Since the integrand is even, the knots below 0 cost nothing; powers of exp(i t_1 x) take
    the place of a cosine and a sine at each knot. Their later code has 17 knots from 0 to 3.

    T is about 1 for normal projections whatever N is, and 0.41 N if all are 0, so that the
    meaning of lambd depends on the number of images. The knots take numbers that are 10 apart for
    the same: where a few are as far out T is off by a fifth, and numbers that are all near 10 seem
    to be near 0.

    With G global views m_n is the mean of these, as in the paper.

    Args:
        z: Projections, shape (V, N, D), of V >= 2 views. With several processes each passes its
            own images, and all get the loss over the N >= 2 images of all processes.
        lambd: Weight of the statistic, from 0 to 1; if None it follows from D, see
            `effssl.loss_weights`.
        directions: Number of directions, 1 or more.
        generator: Draws the directions, on the CPU; torch's default generator if None. With several
            processes all take the directions of the first.
        global_views: Number of global views, G, which come first in z. All are global if None.
        return_parts: Also return the detached parts "invariance", the mean squared distance, and
            "normality", the mean of T divided by N.

    Returns:
        The loss, a scalar in float32 (float64 for float64), or the loss and its parts.

    Raises:
        TypeError: If z is not a floating-point tensor.
        ValueError: If z is not (V, N, D) with V >= 2 and N >= 2, lambd is not from 0 to 1,
            directions is below 1, or global_views is not from 1 to V.
    """
    z, counts, half = check_projections(z)
    with torch.autocast(z.device.type, enabled=False):
        views, _, dim = z.shape
        images = sum(counts)
        lambd = sigreg_lambd(dim) if lambd is None else lambd
        if not 0 <= lambd <= 1:
            raise ValueError(f"lambd is the share of a loss term, from 0 to 1, got {lambd}")
        if directions < 1:
            raise ValueError(f"directions is a number of directions, 1 or more, got {directions}")
        g = check_global_views(global_views, views)
        distances = (z - z[:g].mean(0)).square().sum()
        invariance = all_reduce_sum(distances) / (views * images * dim)
        # drawn in one precision on the CPU, so that they are the same everywhere
        a = torch.randn(dim, directions, generator=generator)
        a = from_first_process(to_device(F.normalize(a, dim=0).to(z.dtype), z.device))
        step = LAST_KNOT / KNOTS
        sums = all_reduce_sum(characteristic_sums(z, a, step=step, knots=KNOTS, tf32=half))
        knots = step * torch.arange(1, KNOTS + 1, dtype=z.dtype)
        normal = (-knots.square() / 2).exp()
        weights = 2 * step * normal  # of both t and -t
        weights[-1] /= 2
        normal, weights = to_device(torch.stack([normal, weights]), z.device)
        cosines, sines = (sums / images).unbind(-1)  # (V, M, K)
        errors = (cosines - normal).square() + sines.square()  # 0 at t = 0
        normality = (errors @ weights).mean()
        loss = (1 - lambd) * invariance + lambd * images * normality
    if not return_parts:
        return loss
    return loss, {"invariance": invariance.detach(), "normality": normality.detach()}

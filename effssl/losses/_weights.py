"""Default loss weights from the width D of the projector.

The weights are those that Agrawal et al. (NeurIPS 2024, https://arxiv.org/abs/2312.10725) found
best for each D, with batches of 512 images and 2 views (CIFAR-10, ResNet-50). Between their
widths the weight is interpolated linearly in (log D, log weight); beyond them it is that of the
nearest width. A narrower projector needs a stronger pull toward orthogonality.
"""

import math
from bisect import bisect_left

BARLOW_TWINS_LAMBD = {
    64: 0.04,
    128: 0.04,
    256: 0.02,
    512: 0.01,
    768: 0.002,
    1024: 0.002,
    1536: 0.001,
    2048: 0.001,
    2304: 0.001,
    2560: 0.0008,
    3072: 0.001,
    4096: 0.0004,
    6144: 0.001,
    8192: 0.0008,
}
VICREG_WEIGHT = {64: 20, 128: 20, 256: 25, 512: 25, 1024: 25, 2048: 75, 4096: 200, 8192: 800}


def barlow_twins_lambd(dim: int) -> float:
    """Weight of the off-diagonal (redundancy) term of Barlow Twins for a projector of width dim.

    A line through the table has slope -1.02 (about 2.9 / D); single widths scatter about it by a
    factor of 1.7.
    """
    return _interpolate(BARLOW_TWINS_LAMBD, dim)


def vicreg_weight(dim: int) -> float:
    """Weight of both the invariance and the variance term of VICReg where the covariance has 1.

    About 23 up to D = 1024, then rising as D^1.64.
    """
    return _interpolate(VICREG_WEIGHT, dim)


def _interpolate(table: dict[int, float], dim: int) -> float:
    widths = list(table)
    i = bisect_left(widths, dim)
    if i == 0:
        return float(table[widths[0]])
    if i == len(widths):
        return float(table[widths[-1]])
    low, high = widths[i - 1], widths[i]
    t = math.log(dim / low) / math.log(high / low)
    return table[low] ** (1 - t) * table[high] ** t

"""Default weights of the losses by the width D of the projector. This module imports no torch.

The default weights of Barlow Twins and VICReg are those that Agrawal et al.
(`effssl.papers.METHOD`) found best for each width D of the projector, with batches of 512 images
and 2 views (CIFAR-10, ResNet-50). Between two of their widths the weight is interpolated linearly
in (log D, log weight); beyond them it is that of the nearest width. A narrower projector needs a
stronger pull toward orthogonality. SIGReg and the coding rate have their authors' weights, for
every D; no law of the width was measured for them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping

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
    """Return the default weight of the off-diagonal (redundancy) term of Barlow Twins.

    A line through the table has slope -1.02 (about 2.9 / D); single widths scatter about it by a
    factor of 1.7.
    """
    return _interpolate(BARLOW_TWINS_LAMBD, dim)


def vicreg_weight(dim: int) -> float:
    """Return the default weight of the invariance and variance terms of VICReg, for covariance 1.

    About 23 up to D = 1024, then rising as D^1.64.
    """
    return _interpolate(VICREG_WEIGHT, dim)


def spectral_beta(dim: int) -> float:
    """Return the default weight of the orthogonality term of the spectral loss: 1 for every D."""
    return 1.0


def simclr_temperature(dim: int) -> float:
    """Return the default temperature of SimCLR: 0.2 for every D, between those of its authors."""
    return 0.2


def sigreg_lambd(dim: int) -> float:
    """Return the default share of the statistic in SIGReg: 0.05, the authors', for every D."""
    return 0.05


def coding_rate_invariance(dim: int) -> float:
    """Return the default weight of invariance beside the coding rate: 200, the authors'."""
    return 200.0


def _interpolate(table: Mapping[int, float], dim: int) -> float:
    widths = list(table)
    i = bisect_left(widths, dim)
    if i == 0:
        return float(table[widths[0]])
    if i == len(widths):
        return float(table[widths[-1]])
    low, high = widths[i - 1], widths[i]
    t = math.log(dim / low) / math.log(high / low)
    return table[low] ** (1 - t) * table[high] ** t

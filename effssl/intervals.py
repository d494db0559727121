"""Intervals of 95 % by Student's t, of errors of which some are known from few values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# quantiles of 97.5 % of Student's t for 1, 2, ... degrees of freedom
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


def quantile(freedom: float) -> float:
    """Return the quantile of 97.5 % of Student's t for degrees of freedom, which may be inf."""
    return _T[max(1, int(freedom)) - 1] if freedom < len(_T) + 1 else 1.96 + 2.4 / freedom


def welch_quantile(error: float, spreads: Sequence[tuple[float, int]]) -> float:
    """Return the quantile for an error, parts of which are known by few degrees of freedom.

    Args:
        error: Standard error.
        spreads: Standard error and degrees of freedom of each such part.
    """
    unsure = sum((spread / error) ** 4 / freedom for spread, freedom in spreads) if error else 0
    return quantile(1 / unsure if unsure else math.inf)


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean of two values or more."""
    return statistics.stdev(values) / len(values) ** 0.5

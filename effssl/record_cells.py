"""Cells of tables of accuracies."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from effssl.intervals import standard_error, welch_quantile


def mean_and_spread(values: Sequence[float] | None, *, digits: int = 1) -> str:
    """Format mean ± sample standard deviation, the mean alone of one value, or a dash for none."""
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def mean_and_interval(
    values: Sequence[float], error: float, episodes: int, *, digits: int = 1
) -> str:
    """Format the mean with its interval of 95 %, of draws of labels and of seeds.

    Args:
        values: Percentages, one for each seed.
        error: Standard error over the draws.
        episodes: Number of draws.
        digits: Decimals.
    """
    spreads = [(error, episodes - 1)]
    if len(values) > 1:
        spreads.append((standard_error(values), len(values) - 1))
    both = math.hypot(*(spread for spread, _ in spreads))
    mean, half = statistics.mean(values), welch_quantile(both, spreads) * both
    return f"{mean:.{digits}f} ({mean - half:.{digits}f} to {mean + half:.{digits}f})"

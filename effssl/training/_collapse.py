"""Signs of collapse, measured without labels."""

from __future__ import annotations

from torch import Tensor

from effssl.distributed import gather_uneven
from effssl.evaluation.spectrum import effective_rank, unit_std

_ROWS = 512  # images to measure; the cost grows with the cube
LEAST_STD = 0.05  # healthy runs stay above 0.4
_SETTLED = 0.1  # share of a run during which the features are still those of random weights
LEAST_RANK = 0.02  # share of the largest rank that the batch and the width allow


def sample_rows(x: Tensor) -> Tensor:
    """Gather up to 512 rows of all processes on the CPU; every process must call it.

    The rows do not depend on the number of processes, except in batches of more than 512 images
    that are passed in chunks.

    Args:
        x: Features or projections of one view of this process's images, shape (n, F).
    """
    return gather_uneven(x)[:_ROWS].float().cpu()


def collapse_signs(features: Tensor, projections: Tensor) -> dict[str, float]:
    """Compute the spread and the effective rank of features and projections.

    Args:
        features: Features of one view of each image, shape (n, F), from `sample_rows`.
        projections: Projections of the same views, shape (n, D).

    Returns:
        ``feature_std``, ``feature_rank``, ``projection_std`` and ``projection_rank``, see
        `unit_std` and `effective_rank`.
    """
    signs = {}
    for name, x in {"feature": features, "projection": projections}.items():
        signs[f"{name}_std"] = round(unit_std(x), 4)
        signs[f"{name}_rank"] = round(effective_rank(x), 2)
    return signs


def largest_rank(rows: int, width: int) -> int:
    """Return the largest rank that `collapse_signs` can find in rows of a width."""
    return min(rows - 1, width, _ROWS - 1)


def collapse_alarm(signs: dict[str, float], rows: int, width: int) -> str | None:
    """Return a warning that says what is wrong and what to change, or None.

    Args:
        signs: Result of `collapse_signs`.
        rows: Number of images of the global batch.
        width: Width of the projections.
    """
    advice = (
        "try a lower lr, a longer warm-up, a larger batch, or views that differ more (another "
        "preset); effssl views draws them"
    )
    if signs["feature_std"] < LEAST_STD or signs["projection_std"] < LEAST_STD:
        which = "feature" if signs["feature_std"] < LEAST_STD else "projection"
        return (
            f"collapse: every image gets nearly the same {which}s (std "
            f"{signs[which + '_std']:.2g}, 1 would be even): {advice}"
        )
    possible = largest_rank(rows, width)
    if possible > 3 and signs["projection_rank"] < max(1.5, LEAST_RANK * possible):
        return (
            f"dimensional collapse: the projections use {signs['projection_rank']:.1f} of "
            f"{possible} dimensions: {advice}"
        )
    return None


class CollapseWatch:
    """Raises and ends an alarm only after two lines in a row, since signs fluctuate at the limit.

    Args:
        total_steps: Steps of the whole run; the first tenth is not watched.
        rows: Number of images of the global batch.
        width: Width of the projections.

    Attributes:
        alarm: Warning of `collapse_alarm`, or None.
    """

    def __init__(self, total_steps: int, rows: int, width: int) -> None:
        self.total_steps, self.rows, self.width = total_steps, rows, width
        self.alarm: str | None = None
        self._doubts = 0

    def update(self, step: int, signs: dict[str, float]) -> bool:
        """Take in the signs of a step; return whether an alarm was raised or ended."""
        if step < _SETTLED * self.total_steps:
            return False
        now = collapse_alarm(signs, self.rows, self.width)
        if bool(now) == bool(self.alarm):
            self.alarm, self._doubts = now, 0
            return False
        self._doubts += 1
        if self._doubts < 2:
            return False
        self.alarm, self._doubts = now, 0
        return True

"""Differences between the pretrained model and its baselines, with intervals of 95 %."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effssl.evaluation.finetune import LEAST_STEPS
from effssl.records import EvaluationRecord

BASELINES = {"raw pixels": "raw pixels", "random initialisation": "random weights"}
"""Words for the encoders that the pretrained model is compared with."""
# quantiles of 97.5 % of Student's t for 1, 2, ... degrees of freedom
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


@dataclass(frozen=True)
class Difference:
    """Top-1 of the pretrained model minus that of a baseline, by one protocol, in points.

    The interval holds two errors, added as squares: that of the sampling of test images, and that
    of the seeds, s / sqrt(n) for each encoder, with the quantile of Student's t of the degrees of
    freedom that Welch gives both together. Where a record has paired errors, the first is that of
    the mean difference by image; else the two accuracies are taken as independent binomials, which
    is wider, since two encoders mostly fail on the same images. Both are adjusted by one more
    success and failure (Bonett and Price, 2012; Agresti and Caffo, 2000), so that a few test images
    decide nothing: this moves the middle of the interval by n / (n + 2). One seed, as in
    fine-tuning, has no spread: its interval is of the first alone.

    Attributes:
        protocol: Name of the protocol.
        baseline: Name of the encoder.
        points: The difference.
        low: Lower end of the interval.
        high: Upper end.
        sampling: Half of an interval of the sampling of test images alone.
        seeds: Half of an interval of the seeds alone; 0 if there is one, or it makes no difference.
        paired: Whether the sampling error is paired by image.
        steps: Steps of fine-tuning; None for frozen features, or if they are not known.
    """

    protocol: str
    baseline: str
    points: float
    low: float
    high: float
    sampling: float
    seeds: float
    paired: bool
    steps: int | None = None

    @property
    def decided(self) -> str:
        """``better``, ``worse``, ``undecided``, or ``too few steps`` to conclude."""
        if self.steps is not None and self.steps < LEAST_STEPS:
            return "too few steps"
        if self.low <= 0 <= self.high:
            return "undecided"
        return "better" if self.low > 0 else "worse"

    def cell(self) -> str:
        """Return the difference with its interval, and what it decides."""
        return f"{self.points:+.1f} ({self.low:+.1f} to {self.high:+.1f}) {self.decided}"

    def to_json(self) -> dict:
        """Return the values as JSON."""
        return {
            "protocol": self.protocol,
            "baseline": self.baseline,
            "difference": round(self.points, 2),
            "interval": [round(self.low, 2), round(self.high, 2)],
            "sampling": round(self.sampling, 2),
            "seeds": round(self.seeds, 2),
            "paired": self.paired,
            "decided": self.decided,
        }


def differences(record: EvaluationRecord) -> list[Difference]:
    """Compare the pretrained model with every baseline that was measured, by every protocol.

    Args:
        record: An evaluation. Without the number of test images nothing can be said.
    """
    images = record.test_images - record.left_out.get("test", {}).get("broken", 0)
    ours = record.top1.get("pretrained", {})
    return [
        _difference(record, name, baseline, images)
        for baseline in BASELINES
        for name in record.protocols
        if images > 0 and ours.get(name) and record.top1.get(baseline, {}).get(name)
    ]


def paired_error(ours: Sequence[Tensor | None], theirs: Sequence[Tensor | None]) -> float | None:
    """Return the standard error of the difference of two accuracies, paired by test image.

    Args:
        ours: Whether each image is right, (M,), by seed.
        theirs: Likewise, of the other encoder.

    Returns:
        Points; None if that is not known of each image.
    """
    both = [*ours, *theirs]
    if any(one is None for one in both) or len({len(one) for one in both}) != 1:
        return None
    first, second = (torch.stack([*some]).double().mean(0) for some in (ours, theirs))
    # one more image for and against, so that a few of them have an error too
    found = torch.cat([first - second, torch.tensor([1.0, -1.0]).double()])
    return 100 * float(found.std(correction=0)) / len(found) ** 0.5


def _difference(record: EvaluationRecord, name: str, baseline: str, images: int) -> Difference:
    ours, theirs = (record.top1[encoder][name] for encoder in ("pretrained", baseline))
    error = record.paired_errors.get(baseline, {}).get(name)
    paired = error is not None
    if not paired:
        error = math.hypot(*(_binomial(statistics.mean(some), images) for some in (ours, theirs)))
    points = statistics.mean(ours) - statistics.mean(theirs)
    spreads = [(_seed_error(some), len(some) - 1) for some in (ours, theirs) if len(some) > 1]
    seeds = math.hypot(*(spread for spread, _ in spreads))
    t = _quantile(math.hypot(error, seeds), spreads)
    sampling, seeds = t * abs(error), t * seeds
    middle, half = points * images / (images + 2), math.hypot(sampling, seeds)
    steps = record.tuning_steps.get(name)
    ends = middle - half, middle + half
    return Difference(name, baseline, points, *ends, sampling, seeds, paired, steps)


def _binomial(percent: float, images: int) -> float:
    """Return the standard error of an accuracy in points, of one more success and failure."""
    share = (min(max(percent, 0.0), 100.0) * images / 100 + 1) / (images + 2)
    return 100 * math.sqrt(share * (1 - share) / (images + 2))


def _seed_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5


def _quantile(error: float, spreads: Sequence[tuple[float, int]]) -> float:
    """Return the quantile for an error, parts of which are known by few degrees of freedom."""
    unsure = sum((spread / error) ** 4 / freedom for spread, freedom in spreads) if error else 0
    freedom = 1 / unsure if unsure else math.inf
    return _T[max(1, int(freedom)) - 1] if freedom < len(_T) + 1 else 1.96 + 2.4 / freedom

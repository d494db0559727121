"""Differences between the pretrained model and its baselines, with intervals of 95 %."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effssl.evaluation.finetune import LEAST_STEPS
from effssl.intervals import standard_error, welch_quantile
from effssl.records import EvaluationRecord

BASELINES = ("raw pixels", "random weights")
"""Encoders that the pretrained model is compared with."""


@dataclass(frozen=True)
class Difference:
    """Top-1 of the pretrained model minus that of a baseline, by one protocol, in points.

    The interval holds two errors, added as squares: that of the sampling of test images, and that
    of the seeds, s / sqrt(n) for each encoder, with the quantile of Student's t of the degrees of
    freedom that Welch gives all together. Where labels are drawn several times, a third one is
    that of the mean difference over the draws. Where a record has paired errors, the first is that
    of the mean difference by image; else the two accuracies are taken as independent binomials,
    which is wider, since two encoders mostly fail on the same images. Both are adjusted by one more
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
        episodes: Half of an interval of the draws of labels alone; 0 where they are not drawn.
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
    episodes: float = 0.0
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
            **({"episodes": round(self.episodes, 2)} if self.episodes else {}),
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


def episode_error(
    ours: Sequence[Tensor | None], theirs: Sequence[Tensor | None] = ()
) -> float | None:
    """Return the standard error over episodes of a mean, or of the difference of two means.

    Args:
        ours: Top-1 by episode, (E,), by seed.
        theirs: Likewise, of another encoder in the same episodes; none for that of the mean.

    Returns:
        Points; None if it is not known by episode, or the numbers of episodes differ.
    """
    both = [*ours, *theirs]
    if not ours or any(one is None for one in both) or len({len(one) for one in both}) != 1:
        return None
    found = torch.stack([*ours]).mean(0)
    if theirs:
        found = found - torch.stack([*theirs]).mean(0)
    return float(found.std()) / len(found) ** 0.5


def _difference(record: EvaluationRecord, name: str, baseline: str, images: int) -> Difference:
    ours, theirs = (record.top1[encoder][name] for encoder in ("pretrained", baseline))
    error = record.paired_errors.get(baseline, {}).get(name)
    paired = error is not None
    if not paired:
        error = math.hypot(*(_binomial(statistics.mean(some), images) for some in (ours, theirs)))
    points = statistics.mean(ours) - statistics.mean(theirs)
    spreads = [(standard_error(some), len(some) - 1) for some in (ours, theirs) if len(some) > 1]
    seeds = math.hypot(*(spread for spread, _ in spreads))
    drawn = _episode_error(record, name, baseline)
    if drawn:
        spreads.append((drawn, record.episodes[name] - 1))
    t = welch_quantile(math.hypot(error, seeds, drawn), spreads)
    sampling, seeds, drawn = t * abs(error), t * seeds, t * drawn
    middle, half = points * images / (images + 2), math.hypot(sampling, seeds, drawn)
    steps = record.tuning_steps.get(name)
    ends = middle - half, middle + half
    return Difference(name, baseline, points, *ends, sampling, seeds, paired, drawn, steps)


def _episode_error(record: EvaluationRecord, name: str, baseline: str) -> float:
    """Return the standard error of the difference over the draws of labels; 0 without them."""
    error = record.paired_episode_errors.get(baseline, {}).get(name)
    if error is not None:
        return error
    both = (record.episode_errors.get(encoder, {}) for encoder in ("pretrained", baseline))
    return math.hypot(*(row.get(name, 0.0) for row in both))  # as if the draws were others


def _binomial(percent: float, images: int) -> float:
    """Return the standard error of an accuracy in points, of one more success and failure."""
    share = (min(max(percent, 0.0), 100.0) * images / 100 + 1) / (images + 2)
    return 100 * math.sqrt(share * (1 - share) / (images + 2))

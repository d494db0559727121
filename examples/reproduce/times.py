"""Time to the accuracy of the widest projector, with intervals over seeds.

That is the reference, or where held-out images chose its learning rate and weight the run with
these (`Scale.wide`).

The schedules of a family differ in epochs alone. Its accuracy as a function of the logarithm of the
minutes is linear between their means, and its time is where that first crosses the mean of the
widest projector. Where the shortest schedule is there already, the time is at most its minutes.

Intervals are of a parametric bootstrap: the mean of every configuration, the widest's too, is
drawn from Student's t with the pooled spread over the root of its seeds. A draw that never gets
there counts as infinite. What a draw bounds on one side alone counts with its bound, so that an
interval may have one end, or none: it is open. Each interval holds on its own. Minutes are taken as
known: their own spread, from what else the machine did, is not in the intervals.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from experiments import REFERENCE_WIDTH, Scale
from runs_table import MEASURES, Family, Runs, schedules

DRAWS = 2000


class Bounds(NamedTuple):
    """Smallest and largest value that a number may have; the same where it is known."""

    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        """Return the number, its one bound, or nothing if it has none."""
        if self.low == self.high:
            return f"{self.low:.{digits}f}"
        if self.low == 0:
            return "" if self.high == math.inf else f"<= {self.high:.{digits}f}"
        if self.high == math.inf:
            return f">= {self.low:.{digits}f}"
        return f"{self.low:.{digits}f} to {self.high:.{digits}f}"


@dataclasses.dataclass(frozen=True)
class Share:
    """A time as a share of another, with its 95 % interval; None where no seed was repeated."""

    share: Bounds
    interval: Bounds | None
    may_fail: bool = False
    """Whether the upper end of the interval is that the goal is never reached."""

    def __str__(self) -> str:
        if not self.share.text():
            return ""
        if self.interval is None:
            return self.share.text()
        return f"{self.share.text()} ({self._interval()})"

    def _interval(self) -> str:
        if self.interval.high == math.inf and self.may_fail:
            return f"{self.interval.low:.2f} to never" if self.interval.low else "open, or never"
        return self.interval.text() or "open"

    def tells(self) -> bool:
        """Tell whether the share is known, or at least whether it is more or less than 1."""
        return self.share.low == self.share.high or self.share.high <= 1 or self.share.low >= 1

    def words(self) -> str:
        """Return what is saved, in percent with its interval, or how much longer it takes."""
        if self.share.low >= 1:
            return f"take {self} times the minutes"
        interval = ""
        if self.interval is not None:
            never = ", or never there" if self.may_fail else ""
            interval = f" ({_saved(self.interval) or 'open'}{never})"
        return f"save {_saved(self.share)} %{interval} of the minutes"


def _saved(share: Bounds) -> str:
    low, high = (100 * (1 - end) for end in (share.high, share.low))
    if low == high:
        return f"{low:.0f}"
    if share.low == 0:
        return "" if share.high == math.inf else f"at least {low:.0f}"
    return f"at most {high:.0f}" if share.high == math.inf else f"{low:.0f} to {high:.0f}"


@dataclasses.dataclass(frozen=True)
class FamilyTime:
    """Time of a family to the accuracy of the widest projector.

    Attributes:
        minutes: Minutes; the upper bound is infinite if no schedule gets there.
        of_wide: Share of the minutes of the widest projector.
        of_two: Share of the time of 2 views with the same loss and width; None for these, and
            where they were not run.
    """

    minutes: Bounds
    of_wide: Share
    of_two: Share | None


def reach(minutes: np.ndarray, accuracy: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return bounds of the minutes at which accuracy first reaches a goal.

    Args:
        minutes: Minutes of the schedules, ascending: (schedules,).
        accuracy: Their accuracies: (draws, schedules).
        goal: Accuracy to be reached: (draws,).

    Returns:
        (draws, 2): twice the same where the accuracy crosses the goal between two schedules; 0 and
        the minutes of the shortest if that is there; those of the longest and infinity if none is.
    """
    there = accuracy >= goal[:, None]
    first, draws = there.argmax(1), np.arange(len(goal))
    before = np.maximum(first - 1, 0)
    start, end = accuracy[draws, before], accuracy[draws, first]
    crosses = end > start
    part = np.where(crosses, goal - start, 0) / np.where(crosses, end - start, 1)
    log = np.log(minutes)
    time = np.exp(log[before] + part * (log[first] - log[before]))
    bounds = np.stack([time, time], 1)
    bounds[first == 0] = 0, minutes[0]
    bounds[~there.any(1)] = minutes[-1], np.inf
    return bounds


def family_times(scale: Scale, runs: Runs, seed: int = 0) -> dict[Family, FamilyTime]:
    """Return the time of every family to the accuracy of the widest projector.

    Args:
        scale: Scale of the runs.
        runs: Runs of the scale with one measure.
        seed: Seed of the bootstrap.

    Returns:
        Times by family; none if the widest projector was not run.
    """
    if not runs.of(scale.wide):
        return {}
    generator = np.random.default_rng(seed)
    # no intervals where a spread is not known
    draws = DRAWS if all(runs.spread(config).freedom for config in runs.rows) else 0
    # the means share the pooled spread, so that what it is wrong by is drawn once for all
    drawn = {
        spread: spread.std * np.sqrt(spread.freedom / generator.chisquare(spread.freedom, draws))
        for spread in dict.fromkeys(map(runs.spread, runs.rows))
        if draws
    }

    def means(config) -> np.ndarray:
        """Return the estimate, then the draws."""
        if not draws:
            return np.array([runs.mean(config)])
        error = drawn[runs.spread(config)] / math.sqrt(len(runs.of(config)))
        return runs.mean(config) + np.append(0.0, error * generator.standard_normal(draws))

    goal = means(scale.wide)
    times = {}
    for family, configs in schedules(scale, runs).items():
        configs = sorted(configs, key=runs.minutes)
        minutes = np.array([runs.minutes(config) for config in configs])
        times[family] = reach(minutes, np.stack([means(c) for c in configs], 1), goal)
    of_wide = runs.minutes(scale.wide)
    found = {}
    for family, time in times.items():
        two = times.get(Family(family.loss, 2))
        with_two = family != Family(family.loss, 2) and two is not None
        found[family] = FamilyTime(
            Bounds(*time[0].tolist()),
            _share(time, np.full_like(time, of_wide)),
            _share(time, two) if with_two else None,
        )
    return found


def _share(time: np.ndarray, other: np.ndarray) -> Share:
    with np.errstate(divide="ignore"):  # a time that is only bounded from above has 0 below
        low, high = time[:, 0] / other[:, 1], time[:, 1] / other[:, 0]
    interval = None
    if len(low) > 1:
        lows, highs = np.sort(low[1:]), np.sort(high[1:])
        cut = int(0.025 * len(lows))
        interval = Bounds(float(lows[cut]), float(highs[-1 - cut]))
    never = np.mean(np.isinf(time[1:, 1])) > 0.025 if len(time) > 1 else False
    return Share(Bounds(float(low[0]), float(high[0])), interval, bool(never))


def time_table(scale: Scale, runs: Runs) -> str:
    """Return a Markdown table of the times; empty if the widest projector has no such measure."""
    found = family_times(scale, runs)
    if not found:
        return ""
    goal, minutes = runs.mean(scale.wide), runs.minutes(scale.wide)
    lines = [
        f"| loss, views, width | minutes to {goal:.1f} % {MEASURES[runs.measure]} "
        f"| share of the {minutes:.1f} of {REFERENCE_WIDTH} wide | share of 2 views' |",
        "|---|--:|--:|--:|",
    ]
    for family, time in found.items():
        cells = ["" if time.minutes.high == math.inf else time.minutes.text(1)]
        cells += [str(time.of_wide) if cells[0] else ""]
        cells += [str(time.of_two) if cells[0] and time.of_two else ""]
        name = f"{family.loss}, {family.label}, {scale.small_width}"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def time_summary(scale: Scale, runs: Runs) -> str:
    """Return one line: what width alone saves of the time, and what views save beyond it."""
    loss = scale.reference.loss
    found = {f: t for f, t in family_times(scale, runs).items() if f.loss == loss}
    two = found.pop(Family(loss, 2), None)
    if two is None or two.minutes.high == math.inf:
        return ""
    beyond = [
        f"{family.label} views {time.of_two.words()}"
        for family, time in found.items()
        if time.minutes.high < math.inf and time.of_two.tells()
    ]
    line = (
        f"{MEASURES[runs.measure]}, to the accuracy of {REFERENCE_WIDTH} dimensions: "
        f"{scale.small_width} wide, 2 views {two.of_wide.words()}"
    )
    unknown = "what views save beyond it cannot be told from these schedules"
    return f"{line}; beyond width, {', '.join(beyond)}" if beyond else f"{line}; {unknown}"

"""Test the claims of the method on the runs in the results table.

    python examples/reproduce/tables.py               # the cpu scale
    python examples/reproduce/tables.py --scale losses
    python examples/reproduce/tables.py --scale gpu

Prints Markdown tables. Accuracy is top-1 of the linear probe in percent, after the last epoch.
Intervals are 95 % intervals of the difference of two means over seeds, with the variance over seeds
pooled over all configurations of the scale. They are not corrected for the number of claims, and do
not cover the choice of test images.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import shlex
import statistics
from pathlib import Path
from typing import Literal

import tyro
from experiments import (
    LOSS_ROWS,
    LOSS_WIDTHS,
    MAY_COLLAPSE,
    REFERENCE_WIDTH,
    SCALES,
    Scale,
    with_loss,
)
from run import RESULTS, command, read_results
from scipy import stats

from effssl import PretrainConfig, cli
from effssl.loss_weights import barlow_twins_lambd

MARGIN = 0.5
"""Margin of "as good" in points of accuracy: not worse by more."""


@functools.cache
def parse(command: str) -> PretrainConfig:
    """Return the configuration of a command in the table."""
    return tyro.cli(PretrainConfig, args=shlex.split(command)[2:])


class Runs:
    """The runs of a scale, grouped by configuration without seed, and one of their measures."""

    def __init__(self, rows: list[dict[str, str]], measure: str = "linear") -> None:
        self.measure = measure
        self.rows: dict[PretrainConfig, list[dict[str, str]]] = {}
        for row in rows:
            if row["encoder"] == "pretrained":
                config = dataclasses.replace(parse(row["command"]), seed=0)
                self.rows.setdefault(config, []).append(row)
        groups = [self.of(config) for config in self.rows]
        self.freedom = sum(len(values) - 1 for values in groups)
        squares = sum((len(v) - 1) * statistics.variance(v) for v in groups if len(v) > 1)
        self.std = math.sqrt(squares / self.freedom) if self.freedom else math.nan

    def of(self, config: PretrainConfig) -> list[float]:
        """Return the measure for each seed; empty if the configuration was not run."""
        return [float(row[self.measure]) for row in self.rows.get(config, [])]

    def mean(self, config: PretrainConfig) -> float:
        """Return the mean over the seeds; nan if the configuration was not run."""
        return statistics.fmean(self.of(config) or [math.nan])

    def minutes(self, config: PretrainConfig) -> float:
        """Return the median over the seeds, since other work slows single runs down."""
        return statistics.median(float(row["minutes"]) for row in self.rows[config])

    def half_width(self, *configs: PretrainConfig) -> float:
        """Return half the interval of one configuration's mean, or of the difference of two."""
        counts = [len(self.of(config)) for config in configs]
        if not all(counts) or not self.freedom:
            return math.nan
        return stats.t.ppf(0.975, self.freedom) * self.std * math.sqrt(sum(1 / n for n in counts))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A claim that the first of two configurations is better than the second, or as good."""

    text: str
    first: PretrainConfig
    second: PretrainConfig
    better: bool = False

    def verdict(self, runs: Runs) -> tuple[str, str]:
        """Return the difference with its interval, and the verdict; empty if a run is missing."""
        difference = runs.mean(self.first) - runs.mean(self.second)
        half = runs.half_width(self.first, self.second)
        if math.isnan(half):
            return "", ""
        bar = 0.0 if self.better else -MARGIN
        verdict = "undecided"
        if difference - half > bar:
            verdict = "holds"
        elif difference + half < bar:
            verdict = "does not hold"
        return f"{difference:+.1f} ± {half:.1f}", verdict


def comparisons(scale: Scale) -> list[Comparison]:
    """Return the claims of the method, each about two configurations."""
    run, share, reference = scale.run, scale.share, scale.reference
    batch = {"batch_size": scale.width_batch_size}
    widest = run(projector_dim=REFERENCE_WIDTH, **batch)
    fixed = barlow_twins_lambd(REFERENCE_WIDTH)
    return [
        *(
            Comparison(
                f"{dim} wide, weight from the width, as good as {REFERENCE_WIDTH} wide",
                run(projector_dim=dim, **batch),
                widest,
            )
            for dim in scale.widths[:-1]
        ),
        *(
            Comparison(
                f"{dim} wide: weight from the width better than that of {REFERENCE_WIDTH}",
                run(projector_dim=dim, **batch),
                run(projector_dim=dim, loss_weight=fixed, **batch),
                better=True,
            )
            for dim in scale.widths[:-1]
        ),
        Comparison("equal epochs: 4 views better than 2", run(views=4), run(), better=True),
        Comparison(
            "8 views, half the epochs, better than 2",
            run(views=8, epochs=1 / 2),
            run(),
            better=True,
        ),
        Comparison("equal views: 4 as good as 2", run(views=4, epochs=1 / 2), run()),
        Comparison("equal views: 8 as good as 2", run(views=8, epochs=1 / 4), run()),
        Comparison(
            f"4 views, {scale.small_width} wide, half the epochs as good as 2 views, 8192 wide",
            run(views=4, epochs=1 / 2),
            reference,
        ),
        Comparison("4 views of half of the images as good as 2 of all", share(2, views=4), run()),
        Comparison("8 views of a quarter as good as 2 of all", share(4, views=8), run()),
        Comparison(
            "a quarter of the images: 8 views better than 2, equal views",
            share(4, views=8),
            share(4, views=2),
            better=True,
        ),
        Comparison(
            "a sixteenth: 8 views better than 2, equal views",
            share(16, views=8),
            share(16, views=2),
            better=True,
        ),
        Comparison("4 views: mean as good as pairs", run(views=4, multiview="mean"), run(views=4)),
        Comparison(
            "4 views: spectral as good as pairs", run(views=4, loss="spectral"), run(views=4)
        ),
    ]


def claims(scale: Scale, rows: list[dict[str, str]]) -> str:
    """Return a Markdown table of all comparisons that were run, by linear probe and k-NN."""
    linear, knn = (Runs(rows, measure) for measure in ("linear", "k-NN 20"))
    lines = ["| claim | seeds | linear | | k-NN | |", "|---|--:|--:|---|--:|---|"]
    for claim in comparisons(scale):
        cells = [*claim.verdict(linear), *claim.verdict(knn)]
        if all(cells):
            seeds = f"{len(linear.of(claim.first))}, {len(linear.of(claim.second))}"
            lines.append(f"| {' | '.join([claim.text, seeds, *cells])} |")
    return "\n".join(lines)


def time_to_reference(scale: Scale, runs: Runs) -> str:
    """Return a Markdown table of the shortest runs that are as good as the reference."""
    goal, minutes = runs.mean(scale.reference), runs.minutes(scale.reference)
    lines = [
        f"| loss, views, width | minutes to {goal:.1f} % | of the reference's {minutes:.1f} |",
        "|---|--:|--:|",
    ]
    for (loss, views), configs in schedules(scale, runs).items():
        reached = [runs.minutes(config) for config in configs if runs.mean(config) >= goal]
        cells = [f"{min(reached):.1f}", f"{min(reached) / minutes:.2f}"] if reached else ["", ""]
        lines.append(f"| {loss}, {views}, {scale.small_width} | {' | '.join(cells)} |")
    return "\n".join(lines)


def correlations(runs: Runs) -> dict[str, float]:
    """Return Spearman's correlation of each spectral measure with accuracy, over all runs."""
    rows = [row for rows in runs.rows.values() for row in rows]
    return {
        name: stats.spearmanr(*([float(row[c]) for row in rows] for c in (name, runs.measure)))[0]
        for name in ("alpha", "rankme")
    }


def schedules(scale: Scale, runs: Runs) -> dict[tuple[str, int], list[PretrainConfig]]:
    """Group the runs on all images by loss and views; those of a group differ in epochs alone."""
    groups: dict[tuple[str, int], list[PretrainConfig]] = {}
    for config in sorted(runs.rows, key=lambda c: (c.loss, c.views, c.epochs)):
        same = dataclasses.replace(config, epochs=scale.reference.epochs)
        if same == scale.run(views=config.views, loss=config.loss):
            groups.setdefault((config.loss, config.views), []).append(config)
    return groups


def features_table(rows: list[dict[str, str]]) -> str:
    """Return a Markdown table of each encoder's mean and standard deviation over the seeds."""
    lines = ["| features | k-NN top-1 | linear top-1 |", "|---|--:|--:|"]
    for encoder in dict.fromkeys(row["encoder"] for row in rows):
        cells = [encoder]
        for column in ("k-NN 20", "linear"):
            values = [float(row[column]) for row in rows if row["encoder"] == encoder]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def losses_table(scale: Scale, rows: list[dict[str, str]]) -> str:
    """Return a Markdown table of every loss, by k-NN and linear probe, at each width."""
    titles = [f"{name}, {dim} wide" for name in ("k-NN", "linear") for dim in LOSS_WIDTHS]
    lines = [f"| loss | {' | '.join(titles)} |", "|---" + "|--:" * len(titles) + "|"]
    for label in LOSS_ROWS:
        cells = []
        for measure in ("k-NN 20", "linear"):
            every, steady = Runs(rows, measure), steady_runs(scale, rows, measure)
            for dim in LOSS_WIDTHS:
                config = with_loss(scale, label, dim)
                if config is None or not every.of(config):
                    cells.append("")
                elif label == MAY_COLLAPSE:
                    cells.append(", ".join(f"{value:.1f}" for value in every.of(config)))
                else:
                    half = steady.half_width(config)
                    cells.append(f"{steady.mean(config):.1f} ± {half:.1f}")
        lines.append(f"| {' | '.join([label, *cells])} |")
    return "\n".join(lines)


def steady_runs(scale: Scale, rows: list[dict[str, str]], measure: str) -> Runs:
    """Return the runs with every loss but the one whose seeds differ by whether they collapse."""
    runs = [with_loss(scale, MAY_COLLAPSE, dim) for dim in LOSS_WIDTHS]
    left_out = {dataclasses.replace(run, seed=0) for run in runs if run}
    configs = [dataclasses.replace(parse(row["command"]), seed=0) for row in rows]
    kept = [row for row, config in zip(rows, configs, strict=True) if config not in left_out]
    return Runs(kept, measure)


def read_scale(scale: str, results: Path) -> list[tuple[Scale, list[dict[str, str]]]]:
    """Return the data sets of a scale whose reference was run, each with its lines of the table.

    Raises:
        ValueError: If there are none.
    """
    rows = [row for row in read_results(results) if row["scale"] == scale]
    parts = []
    for part in SCALES[scale]:
        of_part = [row for row in rows if row["dataset"] == part.reference.dataset]
        if any(row["command"] == command(part.reference) for row in of_part):
            parts.append((part, of_part))
    if not parts:
        raise ValueError(
            f"{results} has no run of the reference of the scale {scale!r}: use run.py"
        )
    return parts


def main(
    scale: Literal["readme", "cpu", "losses", "gpu", "paper"] = "cpu", results: Path = RESULTS
) -> None:
    """Print the tables of a scale.

    Args:
        scale: Scale with runs in the table.
        results: Path of the table.
    """
    for part, rows in read_scale(scale, results):
        if scale == "readme":
            print(features_table(rows))
            continue
        print(features_table([row for row in rows if row["encoder"] != "pretrained"]))
        if scale == "losses":
            print(losses_table(part, rows))
            continue
        print(f"\n{claims(part, rows)}\n\n{time_to_reference(part, Runs(rows))}\n")
        for measure in ("linear", "k-NN 20"):
            runs = Runs(rows, measure)
            print(
                f"{measure}: standard deviation {runs.std:.2f}, {runs.freedom} degrees of freedom"
            )
            print(f"Spearman's correlation with {correlations(runs)}")


if __name__ == "__main__":
    cli.run(lambda: tyro.cli(main))

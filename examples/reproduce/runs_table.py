"""The runs in the results table, grouped by configuration, and the spread of their seeds."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import shlex
import statistics
from pathlib import Path
from typing import NamedTuple

import tyro
from experiments import LOSS_WIDTHS, MAY_COLLAPSE, REFERENCE_WIDTH, Scale, with_loss
from run import read_results
from scales import SCALES
from scipy import stats

from effssl import PretrainConfig

WIDE = REFERENCE_WIDTH
"""Width of the projector from which on the spread over seeds is pooled on its own."""
MEASURES = {"linear": "linear", "k-NN 20": "k-NN", "10-shot": "10-shot"}
"""Columns of accuracy, and their names in tables."""


@functools.cache
def parse(command: str) -> PretrainConfig:
    """Return the configuration of a command in the table."""
    return tyro.cli(PretrainConfig, args=shlex.split(command)[2:])


@functools.cache
def group(command: str) -> PretrainConfig:
    """Return what the runs of all seeds of a command have in common: its configuration, seed 0."""
    return dataclasses.replace(parse(command), seed=0)


def value(row: dict[str, str], column: str) -> float:
    """Return a number of the table; nan where the row has none."""
    found = row.get(column, "")
    return math.nan if found == "" else float(found)


def measures(rows: list[dict[str, str]]) -> list[str]:
    """Return the columns of accuracy that some row has."""
    return [name for name in MEASURES if any(not math.isnan(value(row, name)) for row in rows)]


class Spread(NamedTuple):
    """Standard deviation over seeds, pooled over configurations, and its degrees of freedom."""

    std: float
    freedom: int


def _spread(groups: list[list[float]]) -> Spread:
    freedom = sum(len(values) - 1 for values in groups if values)
    squares = sum((len(v) - 1) * statistics.variance(v) for v in groups if len(v) > 1)
    return Spread(math.sqrt(squares / freedom) if freedom else math.nan, freedom)


def _is_wide(config: PretrainConfig | str) -> bool:
    return isinstance(config, PretrainConfig) and config.projector_dim >= WIDE


class Runs:
    """The runs of a scale that have a measure, grouped by configuration without seed.

    By linear probe on the moved sample seeds of the widest projector differ several times as much
    as others, as was seen after the runs: its spread is pooled on its own. Runs of lightly have no
    configuration and are grouped by their command without its seed.
    """

    def __init__(
        self, rows: list[dict[str, str]], measure: str = "linear", encoder: str = "pretrained"
    ) -> None:
        self.measure = measure
        self.rows: dict[PretrainConfig | str, list[dict[str, str]]] = {}
        for row in rows:
            if row["encoder"] == encoder and not math.isnan(value(row, measure)):
                key = re.sub(r" --seeds \d+", "", row["command"])
                if encoder == "pretrained":
                    key = group(row["command"])
                self.rows.setdefault(key, []).append(row)
        self._spreads = {
            wide: _spread([self.of(config) for config in self.rows if _is_wide(config) == wide])
            for wide in (False, True)
        }

    def spread(self, config: PretrainConfig | str) -> Spread:
        """Return the spread over seeds of a configuration, pooled over those like it."""
        return self._spreads[_is_wide(config)]

    def of(self, config: PretrainConfig | str) -> list[float]:
        """Return the measure for each seed; empty if the configuration was not run."""
        return [value(row, self.measure) for row in self.rows.get(config, [])]

    def mean(self, config: PretrainConfig | str) -> float:
        """Return the mean over the seeds; nan if the configuration was not run."""
        return statistics.fmean(self.of(config) or [math.nan])

    def minutes(self, config: PretrainConfig | str) -> float:
        """Return the median over the seeds, since other work slows single runs down."""
        return statistics.median(float(row["minutes"]) for row in self.rows[config])

    def half_width(
        self, *configs: PretrainConfig | str, comparisons: int = 1, pooled: bool = True
    ) -> float:
        """Return half the interval of one configuration's mean, or of the difference of two.

        Args:
            configs: One configuration or two.
            comparisons: Number of intervals that shall hold together.
            pooled: Take the spread pooled over configurations, not each one's own.

        Returns:
            Half of the 95 % interval; nan if a configuration was not run, or nothing twice.
        """
        parts: dict[object, tuple[Spread, float]] = {}  # spreads, and the sums of 1 / seeds
        for config in configs:
            spread = self.spread(config) if pooled else _spread([self.of(config)])
            if not self.of(config) or not spread.freedom:
                return math.nan
            key = spread if pooled else config
            parts[key] = spread, parts.get(key, (spread, 0.0))[1] + 1 / len(self.of(config))
        variances = [(spread.std**2 * part, spread.freedom) for spread, part in parts.values()]
        if not (variance := sum(v for v, _ in variances)):
            return 0.0
        # of Welch and Satterthwaite, where the two have spreads of their own
        freedom = variance**2 / sum(v**2 / freedom for v, freedom in variances)
        return quantile(freedom, comparisons) * math.sqrt(variance)


def quantile(freedom: float, comparisons: int) -> float:
    """Return Student's t of 95 % intervals that hold together, by Bonferroni's correction."""
    return stats.t.ppf(1 - 0.025 / comparisons, freedom)


def steady_runs(scale: Scale, rows: list[dict[str, str]], measure: str) -> Runs:
    """Return the runs with every loss but the one whose seeds differ by whether they collapse."""
    runs = [with_loss(scale, MAY_COLLAPSE, dim) for dim in LOSS_WIDTHS]
    left_out = {dataclasses.replace(run, seed=0) for run in runs if run}
    ours = [row for row in rows if row["encoder"] == "pretrained"]
    return Runs([row for row in ours if group(row["command"]) not in left_out], measure)


class Family(NamedTuple):
    """What the schedules have in common that differ in epochs alone."""

    loss: str
    views: int
    local_views: int = 0

    @property
    def label(self) -> str:
        """Views, in words."""
        return f"{self.views} + {self.local_views} local" if self.local_views else f"{self.views}"


def epochs_of(scale: Scale, config: PretrainConfig) -> float:
    """Return how many epochs a run on all images lasts; less than one if max_steps ends it."""
    if config.max_steps is None:
        return config.epochs
    return min(config.epochs, config.max_steps / (scale.images // config.batch_size))


def schedules(scale: Scale, runs: Runs) -> dict[Family, list[PretrainConfig]]:
    """Group the runs on all images, with the small projector, by family; the shortest first."""
    groups: dict[Family, list[PretrainConfig]] = {}
    wanted = scale.run()
    free = ("epochs", "max_steps", "views", "loss", "local_views", "local_size", "local_scale")
    free = {name: getattr(wanted, name) for name in free}

    def order(config: PretrainConfig) -> tuple:
        return config.loss, config.views, config.local_views, epochs_of(scale, config)

    for config in sorted(runs.rows, key=order):
        if dataclasses.replace(config, **free) == wanted:
            family = Family(config.loss, config.views, config.local_views)
            groups.setdefault(family, []).append(config)
    return groups


def rows_of(part: Scale, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the lines that are of the data set and the backbone of a part of a scale."""
    dataset, backbone = part.reference.dataset, part.reference.backbone
    return [
        row
        for row in rows
        if row["dataset"] == dataset and row["model"].partition("-")[0] == backbone
    ]


def read_scale(scale: str, results: Path) -> list[tuple[Scale, list[dict[str, str]]]]:
    """Return the parts of a scale whose runs have begun, each with its lines of the table.

    Raises:
        ValueError: If there are none.
    """
    rows = [row for row in read_results(results) if row["scale"] == scale]
    parts = []
    for part in SCALES[scale]:
        of_part = rows_of(part, rows)
        if any(row["encoder"] == "pretrained" for row in of_part):
            parts.append((part, of_part))
    if not parts:
        raise ValueError(f"{results} has no run of the scale {scale!r}: use run.py")
    return parts

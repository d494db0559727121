"""Test the claims of the method on the runs in the results table.

    python examples/reproduce/tables.py               # the cpu scale
    python examples/reproduce/tables.py --scale losses
    python examples/reproduce/tables.py --scale gpu

Prints Markdown tables. Accuracy is top-1 in percent of a linear probe, 20 neighbors and a logistic
regression on 10 labels a class, after the last epoch. comparisons.py and times.py say what their
intervals are.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from pathlib import Path
from typing import Literal

import tyro
from comparisons import MARGIN, claims, claims_of_the_method, deciding, shown
from experiments import LOSS_ROWS, LOSS_WIDTHS, MAY_COLLAPSE, STUDIES, Scale, with_loss
from run import RESULTS, command, read_results
from runs_table import (
    MEASURES,
    WIDE,
    Family,
    Runs,
    measures,
    parse,
    read_scale,
    schedules,
    steady_runs,
    value,
)
from scales import CHOICE, ScaleName
from scipy import stats
from times import time_summary, time_table

from effssl import PretrainConfig, cli
from effssl.local import MOVED_SAMPLE, SAMPLE

SPECTRAL = ("alpha", "rankme", "lidar")
"""Measures of features that need no label."""
BOUNDS = (
    "<=: the shortest schedule is there already; never: perhaps no schedule gets there; "
    "open: bounded by nothing."
)
_KINDS = {MOVED_SAMPLE: "moved", SAMPLE: "aligned"}
LIGHTLY = "lightly"
"""Encoder that lightly trains, in the table."""


def features_table(rows: list[dict[str, str]]) -> str:
    """Return a Markdown table of each encoder's mean and standard deviation over the seeds."""
    columns = [name for name in ("k-NN 20", "linear", "10-shot") if name in measures(rows)]
    titles = " | ".join(f"{MEASURES[name]} top-1" for name in columns)
    lines = [f"| features | {titles} |", "|---" + "|--:" * len(columns) + "|"]
    for encoder in dict.fromkeys(row["encoder"] for row in rows):
        of_encoder = [row for row in rows if row["encoder"] == encoder]
        cells = [encoder, *(_mean_and_spread(of_encoder, name) for name in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean_and_spread(rows: list[dict[str, str]], measure: str) -> str:
    values = [found for row in rows if not math.isnan(found := value(row, measure))]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}" if values else ""


def losses_table(scale: Scale, rows: list[dict[str, str]]) -> str:
    """Return a Markdown table of every loss, by every measure, at each width."""
    columns = [name for name in ("k-NN 20", "linear", "10-shot") if Runs(rows, name).rows]
    titles = [f"{MEASURES[name]}, {dim} wide" for name in columns for dim in LOSS_WIDTHS]
    lines = [f"| loss | {' | '.join(titles)} |", "|---" + "|--:" * len(titles) + "|"]
    for label in LOSS_ROWS:
        cells = []
        for measure in columns:
            every, steady = Runs(rows, measure), steady_runs(scale, rows, measure)
            for dim in LOSS_WIDTHS:
                config = with_loss(scale, label, dim)
                if config is None or not every.of(config):
                    cells.append("")
                elif label == MAY_COLLAPSE:
                    cells.append(", ".join(f"{value:.1f}" for value in every.of(config)))
                else:
                    half = steady.half_width(config)
                    spread = "" if math.isnan(half) else f" ± {half:.1f}"
                    cells.append(f"{steady.mean(config):.1f}{spread}")
        lines.append(f"| {' | '.join([label, *cells])} |")
    return "\n".join(lines)


def choice_table(rows: list[dict[str, str]], study: Literal["choice", "tuning"]) -> str:
    """Return a Markdown table of settings to choose from, by held-out images of the samples.

    Args:
        rows: Lines of the scale.
        study: The settings of the first command, or rates and weights by width.
    """
    columns = [
        (part.reference.dataset, name)
        for part in CHOICE
        if study in part.studies
        for name in ("k-NN 20", "linear", "10-shot")
    ]
    titles = [f"{MEASURES[name]}, {_KINDS[dataset]}" for dataset, name in columns]
    lines = [f"| settings | {' | '.join(titles)} |", "|---" + "|--:" * len(titles) + "|"]
    configs = {_settings(config): config for config in STUDIES[study](CHOICE[0])}
    for label, config in {"raw pixels": None, **configs}.items():
        cells = []
        for dataset, name in columns:
            line = "" if config is None else command(dataclasses.replace(config, dataset=dataset))
            encoder = "raw pixels" if config is None else "pretrained"
            key = {"dataset": dataset, "encoder": encoder, "command": line}
            found = [row for row in rows if key.items() <= row.items()]
            cells.append(_mean_and_spread(found, name))
        if any(cells):
            lines.append(f"| {' | '.join([label, *cells])} |")
    return "\n".join(lines)


def _settings(config: PretrainConfig) -> str:
    """Name what a run of the choice has of its own."""
    usual = CHOICE[0].reference
    backbone = [config.backbone] * (config.backbone != usual.backbone)
    parts = [*backbone, config.loss, f"{config.views} views", f"{config.projector_dim} wide"]
    names = {"batch_size": "batch", "lr": "lr", "loss_weight": "weight", "epochs": "epochs"}
    for name, word in names.items():
        if (found := getattr(config, name)) != getattr(usual, name):
            parts.append(f"{word} {found:g}")
    return ", ".join(parts)


def correlations(runs: Runs, loss: str | None = None) -> dict[str, float]:
    """Return Spearman's correlation of each spectral measure with accuracy.

    Args:
        runs: Runs of one backbone with one measure.
        loss: Loss of the runs; None takes all of them.

    Returns:
        Correlation over the runs by spectral measure, of those that 3 runs or more have.
    """
    rows = [
        row for config, rows in runs.rows.items() for row in rows if loss in (None, config.loss)
    ]
    found = {}
    for name in SPECTRAL:
        pairs = [(value(row, name), value(row, runs.measure)) for row in rows]
        pairs = [pair for pair in pairs if not math.isnan(pair[0])]
        if len(pairs) > 2:
            found[name] = float(stats.spearmanr(*zip(*pairs, strict=True))[0])
    return found


def correlations_table(scale: Scale, rows: list[dict[str, str]]) -> str:
    """Return a Markdown table of the correlations, over all runs and over one loss alone."""
    by_measure = [runs for name in measures(rows) if (runs := Runs(rows, name)).rows]
    loss = scale.reference.loss
    titles = [f"{MEASURES[r.measure]}, {of}" for r in by_measure for of in ("all", loss)]
    lines = [f"| Spearman | {' | '.join(titles)} |", "|---" + "|--:" * len(titles) + "|"]
    found = [correlations(runs, of) for runs in by_measure for of in (None, loss)]
    for name in SPECTRAL:
        cells = [f"{column[name]:.2f}" if name in column else "" for column in found]
        if any(cells):
            lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def lightly_table(scale: Scale, rows: list[dict[str, str]]) -> str:
    """Return a Markdown table of lightly's schedules beside those here; empty without any."""
    if not any(row["encoder"] == LIGHTLY for row in rows):
        return ""
    names = measures([row for row in rows if row["encoder"] == LIGHTLY])
    titles = " | ".join(MEASURES[name] for name in names)
    lines = [
        f"| trained by | epochs | minutes | {titles} |",
        "|---" + "|--:" * (2 + len(names)) + "|",
    ]
    theirs, ours = Runs(rows, names[0], LIGHTLY), Runs(rows, names[0])
    by_length = sorted(theirs.rows, key=lambda group: float(theirs.rows[group][0]["epochs"]))
    groups = [(LIGHTLY, group, theirs) for group in by_length]
    for views in (2, 4):
        configs = schedules(scale, ours).get(Family(scale.reference.loss, views), [])
        groups += [(f"effssl, {views} views", config, ours) for config in configs]
    for name, group, runs in groups:
        of_group = runs.rows[group]
        cells = [name, of_group[0]["epochs"], f"{runs.minutes(group):.1f}"]
        cells += [_mean_and_spread(of_group, measure) for measure in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def part_text(scale: Scale, rows: list[dict[str, str]]) -> str:
    """Return every table of one data set of a scale."""
    by_measure = {name: steady_runs(scale, rows, name) for name in measures(rows)}
    by_measure = {name: runs for name, runs in by_measure.items() if runs.rows}
    counts = ", ".join(f"{shown(scale, rows, name)} by {MEASURES[name]}" for name in by_measure)
    times = [time_table(scale, runs) for runs in by_measure.values()]
    summaries = [time_summary(scale, runs) for runs in by_measure.values()]
    spreads = [
        f"{MEASURES[name]}: standard deviation over seeds {spread.std:.2f} with {spread.freedom} "
        f"degrees of freedom, {of}"
        for name, runs in by_measure.items()
        for of, spread in [
            (f"below {WIDE} dimensions", runs.spread(scale.run())),
            (f"from {WIDE} dimensions on", runs.spread(scale.reference)),
        ]
        if spread.freedom
    ]
    texts = [
        f"## {Path(scale.reference.dataset).name}, {scale.reference.backbone}",
        features_table([r for r in rows if r["encoder"] not in ("pretrained", LIGHTLY)]),
        f"The claims of the method: {len(deciding(scale))} comparisons, whose intervals hold "
        f'together. "As good" is not worse by more than {MARGIN:g} points.',
        claims_of_the_method(scale, rows),
        f"All comparisons; the intervals of {counts} hold together.",
        claims(scale, rows),
        "\n".join(spreads),
        *times,
        f"In parentheses are 95 % intervals. {BOUNDS}",
        "\n".join(filter(None, summaries)),
        losses_table(scale, rows) if has_every_loss(scale, rows) else "",
        correlations_table(scale, rows),
        lightly_table(scale, rows),
    ]
    return "\n\n".join(filter(None, texts)) + "\n"


def has_every_loss(scale: Scale, rows: list[dict[str, str]]) -> bool:
    """Tell whether the study of the losses is one of the scale, and has runs of each of them."""
    configs = {with_loss(scale, label, dim) for label in LOSS_ROWS for dim in LOSS_WIDTHS}
    run = {parse(row["command"]).loss for row in rows if row["encoder"] == "pretrained"}
    return "losses" in scale.studies and run >= {config.loss for config in configs if config}


def main(scale: ScaleName = "cpu", results: Path = RESULTS) -> None:
    """Print the tables of a scale.

    Args:
        scale: Scale with runs in the table.
        results: Path of the table.
    """
    if scale == "choice":
        rows = [row for row in read_results(results) if row["scale"] == scale]
        for study in ("choice", "tuning"):
            print(choice_table(rows, study) + "\n")
        return
    for part, rows in read_scale(scale, results):
        if scale == "losses":
            print(features_table([row for row in rows if row["encoder"] != "pretrained"]))
            print(losses_table(part, rows))
        else:
            print(part_text(part, rows))


if __name__ == "__main__":
    cli.run(lambda: tyro.cli(main))

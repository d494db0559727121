"""Draw figures of the runs in the results table.

    python examples/reproduce/figures.py               # the cpu scale
    python examples/reproduce/figures.py --scale losses
    python examples/reproduce/figures.py --scale gpu

Writes figures/{scale}-{data set}-*.png beside the table. Bars are 95 % intervals of the mean
over seeds, with the variance over seeds pooled over all configurations; small dots are seeds.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro
from experiments import LOSS_ROWS, LOSS_WIDTHS, REFERENCE_WIDTH, Scale, with_loss
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from run import RESULTS
from tables import Runs, read_scale, schedules, steady_runs

from effssl import PretrainConfig, cli
from effssl.loss_weights import barlow_twins_lambd


def _lines(axes: Axes, runs: Runs, x: list[float], configs: list[PretrainConfig], **style) -> None:
    """Plot means with their intervals, and each seed as a small dot."""
    shown = [(a, config) for a, config in zip(x, configs, strict=True) if runs.of(config)]
    if not shown:
        return
    means = [runs.mean(config) for _, config in shown]
    widths = [runs.half_width(config) for _, config in shown]
    line = axes.errorbar([a for a, _ in shown], means, widths, marker="o", capsize=3, **style)
    for a, config in shown:
        seeds = runs.of(config)
        axes.plot([a] * len(seeds), seeds, ".", color=line[0].get_color(), alpha=0.4)


def draw_width(axes: Axes, scale: Scale, runs: Runs) -> None:
    """Plot accuracy against projector width, for three rules of the loss weight."""
    batch = {"batch_size": scale.width_batch_size}
    fixed = barlow_twins_lambd(REFERENCE_WIDTH)
    auto = [scale.run(projector_dim=dim, **batch) for dim in scale.widths]
    small = [dataclasses.replace(config, loss_weight=fixed) for config in auto[:-1]] + auto[-1:]
    large = [
        dataclasses.replace(config, loss_weight=round(4 * barlow_twins_lambd(dim), 5))
        for dim, config in zip(scale.widths, auto, strict=True)
    ]
    widths = list(map(float, scale.widths))
    _lines(axes, runs, widths, auto, label="weight from the width")
    _lines(axes, runs, widths, small, label=f"weight of {REFERENCE_WIDTH}, {fixed:g}", ls="--")
    _lines(axes, runs, widths, large, label="4 times the weight from the width", ls=":")
    axes.set(xscale="log", xlabel="width of the projector", ylabel=f"{runs.measure}, top-1 %")
    axes.set_xticks(scale.widths, map(str, scale.widths))


def draw_pareto(axes: Axes, scale: Scale, runs: Runs) -> None:
    """Plot error against minutes, for each loss and number of views."""
    series = {
        f"{loss}, {views} views, {scale.small_width} wide": configs
        for (loss, views), configs in schedules(scale, runs).items()
    }
    series[f"bt, 2 views, {REFERENCE_WIDTH} wide"] = [scale.reference]
    points = []
    for i, (label, configs) in enumerate(series.items()):
        errors = [(runs.minutes(c), 100 - runs.mean(c)) for c in configs]
        half = [runs.half_width(c) for c in configs]
        style = {"marker": "os^vD<>*"[i % 8], "color": f"C{i}", "capsize": 3}
        axes.errorbar(*zip(*errors, strict=True), half, label=label, **style)
        points += errors
    axes.plot(*zip(*front(points), strict=True), color="grey", lw=6, alpha=0.25)
    axes.set(xscale="log", xlabel="minutes of training", ylabel=f"{runs.measure}, error %")


def front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto front: the points than which no other is as fast and as good."""
    return sorted(
        p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)
    )


def draw_data(axes: Axes, scale: Scale, runs: Runs) -> None:
    """Plot accuracy against the share of images, with views times images held constant."""
    parts = (1, 2, 4, 16)
    for views in (2, 4, 8):
        equal = [scale.run(views=views, epochs=2 / views)]
        equal += [scale.share(part, views=views) for part in parts[1:]]
        _lines(axes, runs, [1 / part for part in parts], equal, label=f"{views} views")
    axes.set(xscale="log", xlabel="share of the images", ylabel=f"{runs.measure}, top-1 %")
    axes.set_xticks([1 / part for part in parts], ["all", "1/2", "1/4", "1/16"])


def draw_spectrum(axes: Axes, runs: Runs, name: str) -> None:
    """Plot accuracy against a measure of the features' spectrum, one point a run."""
    groups: dict[str, list[dict[str, str]]] = {}
    for config, rows in runs.rows.items():
        groups.setdefault(f"{config.loss}, {config.views} views", []).extend(rows)
    for i, (label, rows) in enumerate(groups.items()):
        x, y = ([float(row[column]) for row in rows] for column in (name, runs.measure))
        axes.plot(x, y, "os^vD<>*"[i % 8], color=f"C{i}", alpha=0.7, label=label)
    axes.set(xlabel=f"{name} of the features", ylabel=f"{runs.measure}, top-1 %")


def draw_losses(axes: Axes, scale: Scale, runs: Runs) -> None:
    """Plot accuracy against projector width, for every loss."""
    for i, label in enumerate(LOSS_ROWS):
        # side by side, so that the intervals can be told apart
        places = {dim * 1.06 ** (i - len(LOSS_ROWS) // 2): dim for dim in LOSS_WIDTHS}
        shown = {x: with_loss(scale, label, dim) for x, dim in places.items()}
        shown = {x: config for x, config in shown.items() if config}
        _lines(axes, runs, list(shown), list(shown.values()), label=label, color=f"C{i}")
    axes.set(xscale="log", xlabel="width of the projector", ylabel=f"{runs.measure}, top-1 %")
    axes.set_xticks(LOSS_WIDTHS, map(str, LOSS_WIDTHS))
    axes.minorticks_off()


def main(scale: Literal["cpu", "losses", "gpu", "paper"] = "cpu", results: Path = RESULTS) -> None:
    """Draw the figures of a scale.

    Args:
        scale: Scale with runs in the table.
        results: Path of the table.
    """
    folder = results.parent / "figures"
    for part, rows in read_scale(scale, results):
        folder.mkdir(exist_ok=True)
        measures = [Runs(rows, measure) for measure in ("linear", "k-NN 20")]
        if scale == "losses":
            measures = [steady_runs(part, rows, runs.measure) for runs in measures]
        name = f"{scale}-{Path(part.reference.dataset).name}"
        kinds = {"width": draw_width, "pareto": draw_pareto, "data": draw_data}
        if scale == "losses":
            kinds = {"losses": draw_losses}
        for kind, draw in kinds.items():
            figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
            panels = figure.subplots(1, 2)
            for axes, runs in zip(panels, measures, strict=True):
                draw(axes, part, runs)
            _save(figure, folder / f"{name}-{kind}.png")
        if scale == "losses":
            continue
        figure = Figure(figsize=(9, 6.4), dpi=110, layout="constrained")
        grid = figure.subplots(2, 2, sharex="col", sharey="row")
        for row, runs in zip(grid, measures, strict=True):
            for axes, spectral in zip(row, ("alpha", "rankme"), strict=True):
                draw_spectrum(axes, runs, spectral)
        _save(figure, folder / f"{name}-spectrum.png")


def _save(figure: Figure, file: Path) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    figure.savefig(file, metadata={"Software": None})
    print(file)


if __name__ == "__main__":
    cli.run(lambda: tyro.cli(main))

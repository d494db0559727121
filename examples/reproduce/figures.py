"""Draw figures of the runs in the results table.

    python examples/reproduce/figures.py               # the cpu scale
    python examples/reproduce/figures.py --scale losses
    python examples/reproduce/figures.py --scale gpu

Writes figures/{scale}-{data set}-{backbone}-*.png beside the table; panels.py says what they show.
A figure or a panel whose runs are missing is not drawn.
"""

from __future__ import annotations

import functools
import io
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tyro
from experiments import Scale
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from panels import (
    MEASURE_TITLES,
    draw_curves,
    draw_data,
    draw_lightly,
    draw_losses,
    draw_pareto,
    draw_spectrum,
    draw_width,
)
from PIL import Image
from run import RESULTS
from runs_table import Runs, measures, read_scale, steady_runs, value
from tables import LIGHTLY, SPECTRAL, has_every_loss

from effssl import cli

STYLE = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.titlesize": 10.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "savefig.dpi": 130,
}
Draw = Callable[[Axes], None]


def drawings(
    scale: Scale, rows: list[dict[str, str]], kinds: tuple[str, ...]
) -> dict[str, list[list[tuple[str, Draw]]]]:
    """Return what draws each panel of the figures: rows of pairs of a title and a function."""
    by_measure = {name: steady_runs(scale, rows, name) for name in measures(rows)}
    plain = {"width": draw_width, "pareto": draw_pareto, "data": draw_data, "losses": draw_losses}
    found: dict[str, list[list[tuple[str, Draw]]]] = {kind: [[]] for kind in kinds}
    for name, runs in by_measure.items():
        title = MEASURE_TITLES[name]
        of_kind = {
            kind: functools.partial(draw, scale=scale, runs=runs) for kind, draw in plain.items()
        }
        others = _others(rows, name)
        of_kind["curves"] = functools.partial(draw_curves, scale=scale, runs=runs, others=others)
        theirs = Runs(rows, name, LIGHTLY)
        of_kind["lightly"] = functools.partial(draw_lightly, scale=scale, runs=runs, theirs=theirs)
        for kind in kinds:
            if kind == "spectrum":
                some = [
                    functools.partial(draw_spectrum, scale=scale, runs=runs, name=spectral)
                    for spectral in SPECTRAL
                ]
                found[kind].append([(title, draw) for draw in some])
            else:
                found[kind][0].append((title, of_kind[kind]))
    return found


def _others(rows: list[dict[str, str]], measure: str) -> dict[str, float]:
    """Return the mean of every encoder that is not of a run here or of lightly."""
    values: dict[str, list[float]] = {}
    for row in rows:
        found = value(row, measure)
        if row["encoder"] not in ("pretrained", LIGHTLY) and not math.isnan(found):
            values.setdefault(row["encoder"], []).append(found)
    return {name: statistics.fmean(some) for name, some in values.items()}


def draw_figure(panels: list[list[tuple[str, Draw]]]) -> Figure | None:
    """Return a figure of the panels that have runs; None if none has."""
    panels = [[(title, draw) for title, draw in row if _has_runs(draw)] for row in panels]
    panels = [row for row in panels if row]
    if not panels:
        return None
    across, down = max(map(len, panels)), len(panels)
    size = (4.0 * across, 3.7 if down == 1 else 2.5 * down + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    legend = {}
    for i, row in enumerate(panels):
        for j, (title, draw) in enumerate(row):
            axes = figure.add_subplot(down, across, i * across + j + 1)
            draw(axes)
            axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            if down == 1:
                axes.set_title(title)
            elif i + 1 < down:
                axes.set_xlabel("")
            if j == 0:
                label = axes.get_ylabel() or "top-1 accuracy, %"
                axes.set_ylabel(label if down == 1 else f"{title}, %")
            else:
                axes.set_ylabel("")
            handles, labels = axes.get_legend_handles_labels()
            legend = dict(zip(labels, handles, strict=True)) | legend
    columns = len(legend) if len(legend) <= 3 * across else math.ceil(len(legend) / 2)
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=columns)
    return figure


def _has_runs(draw: Draw) -> bool:
    axes = Figure().subplots()
    draw(axes)
    return axes.has_data()


def save(figure: Figure, file: Path) -> None:
    """Write a figure as a PNG of 64 colors, which takes a third of the bytes."""
    drawn = io.BytesIO()
    figure.savefig(drawn, metadata={"Software": None})
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(file, optimize=True)


def main(
    scale: Literal["cpu", "whole", "losses", "gpu", "paper"] = "cpu", results: Path = RESULTS
) -> None:
    """Draw the figures of a scale.

    Args:
        scale: Scale with runs in the table.
        results: Path of the table.
    """
    folder = results.parent / "figures"
    for part, rows in read_scale(scale, results):
        kinds = ("width", "pareto", "data", "curves", "lightly", "spectrum")
        if scale == "losses":
            kinds = ("losses",)
        elif has_every_loss(part, rows):
            kinds += ("losses",)
        with rc_context(STYLE):
            for kind, panels in drawings(part, rows, kinds).items():
                figure = draw_figure(panels)
                if figure is not None:
                    folder.mkdir(exist_ok=True)
                    of = f"{Path(part.reference.dataset).name}-{part.reference.backbone}"
                    file = folder / f"{scale}-{of}-{kind}.png"
                    save(figure, file)
                    print(file)


if __name__ == "__main__":
    cli.run(lambda: tyro.cli(main))

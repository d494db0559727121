"""Curves of a run: the metrics over steps, and k-NN accuracy over epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from effssl.report._run import Run
from effssl.report._svg import COLORS, INK, Chart, draw, legend
from effssl.training._collapse import LEAST_STD
from effssl.training._learning import LossScale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 400  # points of a curve


def training_charts(run: Run) -> list[Chart]:
    """Return the charts of all metrics over steps."""
    lines = run.points(_POINTS)
    if len(lines) < 2:
        count = "one line" if lines else "no line"
        return [Chart("Metrics", None, f"metrics.jsonl has {count} so far; a curve needs two.")]
    whole = (line for line in reversed(lines) if "grad_norm" in line)  # no skipped batch
    parts = list(next(whole, lines[-1]))  # their keys are between those of loss and learning rate
    if "loss" in parts and "lr" in parts:
        parts = parts[parts.index("loss") + 1 : parts.index("lr")]
    charts = [
        _over_steps(
            lines, "loss", "Loss", ["loss"], True, text=f"{LossScale(run.config).explain()}."
        ),
        _over_steps(lines, "parts", "Parts of the loss, without their weights", parts, scale=True),
        _over_steps(lines, "lr", "Learning rate", ["lr"]),
        _over_steps(
            lines, "norm", "Norm of the gradient, before it is clipped", ["grad_norm"], True
        ),
        _speed(run, lines),
        _over_steps(
            lines,
            "std",
            "Spread of a batch",
            ["feature_std", "projection_std"],
            text=f"1 where directions are spread evenly; below {LEAST_STD:g}, dashed, the run has "
            "collapsed.",
            floor=LEAST_STD,
        ),
        _over_steps(
            lines,
            "rank",
            "Effective rank of a batch",
            ["feature_rank", "projection_rank"],
            text="At most the width, and the images of a batch less one.",
        ),
    ]
    return charts


def knn_chart(run: Run) -> Chart:
    """Return the chart of k-NN accuracy over epochs."""
    title = "k-NN top-1 of held-out images of the training data, %"
    points = [(x["epoch"], x["knn"]) for x in run.lines if x.get("knn") is not None]
    at_start = run.knn_start
    if len(points) < 2:
        return Chart(title, None, _why_no_knn(run, points))

    def plot(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        axes.plot(*zip(*points, strict=True), ".-", color=COLORS[0])
        axes.set(xlabel="epoch")
        if at_start is not None:
            axes.axhline(at_start, color=INK, linewidth=0.8, linestyle="--")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.margins(x=0.12)
        axes.annotate(
            f"{points[-1][1]:.1f}",
            points[-1],
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )

    text = "By a vote of 20 neighbors; nothing is chosen by it."
    if at_start is not None:
        text += f" Dashed: the weights before training, {at_start:.1f} %."
    return draw("knn", title, plot, text=text)


def _why_no_knn(run: Run, points: list[tuple[float, float]]) -> str:
    if points:
        start = "" if run.knn_start is None else f"; before training {run.knn_start:.1f} %"
        return f"Measured once so far: {points[0][1]:.1f} % at epoch {points[0][0]:g}{start}."
    if run.config.evaluate_every == 0:
        return "Not measured: evaluate_every is 0."
    if run.config.streaming:
        return "Not measured: a stream has no images that can be held out."
    if run.looks():
        return "Not measured: the images have no labels."
    return "Not measured yet."


def _over_steps(
    lines: list[dict],
    key: str,
    title: str,
    names: Sequence[str],
    scale: bool = False,
    text: str = "",
    floor: float | None = None,
) -> Chart:
    values = {name: [line.get(name) for line in lines] for name in names}
    values = {name: column for name, column in values.items() if _two(column)}
    if not values:
        return Chart(title, None, "Fewer than two lines have a value of it.")

    def plot(axes: Axes) -> None:
        for (name, column), color in zip(values.items(), COLORS, strict=False):
            label = name.replace("_", " ").replace("$", r"\$")
            axes.plot([x["step"] for x in lines], _gaps(column), color=color, label=label)
        if floor is not None:
            axes.axhline(floor, color=INK, linewidth=0.8, linestyle="--")
            axes.set_ylim(bottom=0)
        if scale:
            _set_scale(axes, [v for column in values.values() for v in column if v is not None])
        _steps(axes)
        if len(values) > 1:
            legend(axes)

    return draw(key, title, plot, text=text)


def _speed(run: Run, lines: list[dict]) -> Chart:
    title = "Views a second, and share of the time waited for images"
    speed = [line.get("views_per_s") for line in lines]
    if not _two(speed):
        return Chart(title, None, "Fewer than two lines have a value of it.")
    waiting = [None if x.get("waiting") is None else 100 * x["waiting"] for x in lines]

    def plot(axes: Axes) -> None:
        from matplotlib.ticker import StrMethodFormatter

        steps = [line["step"] for line in lines]
        axes.plot(steps, _gaps(speed), color=COLORS[0])
        axes.set_ylabel("views / s", color=COLORS[0])
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        _steps(axes)
        other = axes.twinx()
        other.plot(steps, _gaps(waiting), color=COLORS[1])
        other.set_ylabel("waiting, %", color=COLORS[1])
        other.set_ylim(0, 100)
        other.grid(False)

    return draw("speed", title, plot, text=run.training.hardware or "")


def _steps(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _set_scale(axes: Axes, values: list[float]) -> None:
    """Use a logarithmic scale if values span decades; a symmetric one if they cross 0."""
    sizes = sorted(abs(value) for value in values if value)
    if not sizes or sizes[-1] < 30 * sizes[len(sizes) // 10]:
        return
    if min(values) > 0:
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog", linthresh=sizes[len(sizes) // 2])


def _two(column: list[float | None]) -> bool:
    return sum(value is not None for value in column) > 1


def _gaps(column: list[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in column]

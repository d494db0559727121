"""The panels of the figures: each draws one question, by one measure, on one pair of axes.

A color is a number of views in every figure, of Okabe and Ito's palette, which the color-blind can
tell apart. Bars and bands are 95 % intervals of the mean over seeds, with the pooled variance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from experiments import LOSS_ROWS, LOSS_WIDTHS, REFERENCE_WIDTH, Scale, with_loss
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator
from runs_table import Family, Runs, epochs_of, schedules, value

from effssl import PretrainConfig
from effssl.loss_weights import barlow_twins_lambd

BLUE, RED, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
BLACK, GREY, SKY, ORANGE = "#222222", "#767676", "#56B4E9", "#E69F00"
MEASURE_TITLES = {
    "linear": "linear probe",
    "k-NN 20": "20 nearest neighbors",
    "10-shot": "10 labels a class",
}
PARTS = (1, 2, 4, 16)
_STYLES = {(2, 0): (BLUE, "o"), (4, 0): (RED, "s"), (8, 0): (GREEN, "^"), (2, 6): (PURPLE, "D")}


def style(views: int, local_views: int = 0) -> dict[str, str]:
    """Return color, marker and label of a number of views."""
    color, marker = _STYLES.get((views, local_views), (ORANGE, "v"))
    label = f"{views} + {local_views} local views" if local_views else f"{views} views"
    return {"color": color, "marker": marker, "label": label}


def families(scale: Scale, runs: Runs) -> dict[Family, list[PretrainConfig]]:
    """Return the schedules with the loss of the reference; local views last."""
    found = schedules(scale, runs).items()
    found = [(family, some) for family, some in found if family.loss == scale.reference.loss]
    return dict(sorted(found, key=lambda pair: (pair[0].local_views, pair[0].views)))


def draw_means(
    axes: Axes,
    runs: Runs,
    points: Iterable[tuple[float, PretrainConfig | str]],
    *,
    band: bool = False,
    error: bool = False,
    **style,
) -> None:
    """Draw the means of the configurations that were run, with their intervals.

    Args:
        axes: Axes.
        runs: Runs of a scale with one measure.
        points: Places on the horizontal axis, each with its configuration.
        band: Shade the interval instead of a bar at each mean.
        error: Draw 100 less the measure.
        style: Style of matplotlib's line.
    """
    shown = sorted((p for p in points if runs.of(p[1])), key=lambda point: point[0])
    if not shown:
        return
    x, configs = zip(*shown, strict=True)
    y = [100 - runs.mean(c) if error else runs.mean(c) for c in configs]
    half = [0.0 if math.isnan(h := runs.half_width(c)) else h for c in configs]
    style = {"lw": 1.8, "ms": 5} | style
    if band:
        axes.plot(x, y, **style)
        low, high = ([a + sign * h for a, h in zip(y, half, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=style["color"], alpha=0.18, lw=0)
    else:
        axes.errorbar(x, y, half, capsize=2.5, elinewidth=1.1, **style)


def draw_pareto(axes: Axes, scale: Scale, runs: Runs) -> None:
    """Draw error against minutes for each number of views, and the widest projector."""
    points = []
    for family, configs in families(scale, runs).items():
        by_minutes = [(runs.minutes(config), config) for config in configs]
        draw_means(axes, runs, by_minutes, error=True, **style(family.views, family.local_views))
        points += [(minutes, 100 - runs.mean(config)) for minutes, config in by_minutes]
    if not points:
        return
    if runs.of(scale.wide):
        minutes = runs.minutes(scale.wide)
        points.append((minutes, 100 - runs.mean(scale.wide)))
        label = f"2 views, {REFERENCE_WIDTH} wide"
        wide = {"color": BLACK, "marker": "*", "ms": 10, "ls": "", "label": label}
        draw_means(axes, runs, [(minutes, scale.wide)], error=True, **wide)
    best = {"color": GREY, "lw": 7, "alpha": 0.25, "solid_capstyle": "round", "zorder": 0}
    axes.plot(*zip(*front(points), strict=True), label="best for its time", **best)
    _log(axes, "minutes of training")
    axes.set_ylabel("error, %")


def front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto front: the points than which no other is as fast and as good."""
    return sorted(
        p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)
    )


def draw_width(axes: Axes, scale: Scale, runs: Runs) -> None:
    """Draw accuracy against projector width, for the rules of the loss weight that were run."""
    batch = {"batch_size": scale.width_batch_size}
    fixed = barlow_twins_lambd(REFERENCE_WIDTH)
    auto = {dim: scale.run(projector_dim=dim, **batch) for dim in scale.widths}
    if sum(bool(runs.of(config)) for config in auto.values()) < 2:
        return
    color, marker, _ = style(2).values()
    draw_means(axes, runs, auto.items(), color=color, marker=marker, label="weight from the width")
    # beside it, so that the intervals can be told apart
    narrow = {dim: config for dim, config in auto.items() if dim != REFERENCE_WIDTH}
    small = {d / 1.07: dataclasses.replace(c, loss_weight=fixed) for d, c in narrow.items()}
    if any(map(runs.of, small.values())):
        small[REFERENCE_WIDTH] = auto[REFERENCE_WIDTH]  # whose own weight it is
        look = {"color": BLACK, "marker": "X", "ls": "--", "zorder": 1}
        draw_means(axes, runs, small.items(), label=f"weight of {REFERENCE_WIDTH} wide", **look)
    large = {
        dim * 1.07: dataclasses.replace(c, loss_weight=round(4 * barlow_twins_lambd(dim), 5))
        for dim, c in auto.items()
    }
    look = {"color": ORANGE, "marker": "v", "ls": ":", "zorder": 1}
    draw_means(axes, runs, large.items(), label="4 times that from the width", **look)
    _log(axes, "width of the projector", scale.widths)


def draw_data(axes: Axes, scale: Scale, runs: Runs) -> None:
    """Draw accuracy against the share of images, with views times images held constant."""
    equal = {
        views: {1 / part: scale.share(part, views=views) for part in PARTS[1:]}
        for views in (2, 4, 8)
    }
    if not any(runs.of(config) for some in equal.values() for config in some.values()):
        return
    for views, some in equal.items():
        some[1.0] = scale.run(views=views, epochs=2 / views)
        # side by side, so that the intervals can be told apart
        shift = {2: 0.96, 4: 1.0, 8: 1.04}[views]
        places = [(share * shift, config) for share, config in some.items()]
        draw_means(axes, runs, places, **style(views))
    _log(axes, "share of the images")
    axes.set_xticks([1 / part for part in PARTS], ["all", "1/2", "1/4", "1/16"])


def draw_curves(axes: Axes, scale: Scale, runs: Runs, others: dict[str, float]) -> None:
    """Draw accuracy against epochs for 2, 4 and 8 views, and other encoders as lines.

    Args:
        axes: Axes.
        scale: Scale of the runs.
        runs: Runs of the scale with one measure.
        others: Accuracy of other encoders by their name in the table.
    """
    curves = {family: some for family, some in families(scale, runs).items() if len(some) > 1}
    curves = {family: some for family, some in curves.items() if not family.local_views}
    if not curves:
        return
    for family, configs in curves.items():
        by_epochs = [(epochs_of(scale, config), config) for config in configs]
        draw_means(axes, runs, by_epochs, band=True, **style(family.views))
    lines = {"supervised": ":", "raw pixels": "--", "random weights": "-."}
    for name, accuracy in others.items():
        if name in lines:
            axes.axhline(accuracy, color=GREY, ls=lines[name], lw=1.3, label=name, zorder=0)
    epochs = sorted({epochs_of(scale, config) for some in curves.values() for config in some})
    _log(axes, "epochs", epochs)


def draw_lightly(axes: Axes, scale: Scale, runs: Runs, theirs: Runs) -> None:
    """Draw accuracy against minutes of effssl and of lightly's Barlow Twins.

    Args:
        axes: Axes.
        scale: Scale of the runs.
        runs: Runs of the scale with one measure.
        theirs: Runs of lightly with the same measure.
    """
    if not theirs.rows:
        return
    for family, configs in families(scale, runs).items():
        if family.views in (2, 4) and not family.local_views:
            label = f"effssl, {family.label} views, {scale.small_width} wide"
            by_minutes = [(runs.minutes(config), config) for config in configs]
            draw_means(axes, runs, by_minutes, **style(family.views) | {"label": label})
    by_minutes = [(theirs.minutes(epochs), epochs) for epochs in theirs.rows]
    label = "lightly, Barlow Twins"
    draw_means(axes, theirs, by_minutes, color=BLACK, marker="X", ls="--", label=label)
    _log(axes, "minutes of training")


def draw_spectrum(axes: Axes, scale: Scale, runs: Runs, name: str) -> None:
    """Draw accuracy against a measure of the features' spectrum, one point a run."""
    markers = dict(
        zip(dict.fromkeys(f["loss"] for f in LOSS_ROWS.values()), "ovP*XDp", strict=True)
    )
    groups: dict[tuple[str, int, int], list[dict[str, str]]] = {}
    for config, rows in runs.rows.items():
        rows = [row for row in rows if not math.isnan(value(row, name))]
        if rows:
            key = (config.loss, config.views, config.local_views)
            if config.loss != scale.reference.loss:
                key = (config.loss, 0, 0)
            groups.setdefault(key, []).extend(rows)
    ours = scale.reference.loss
    for loss, views, local_views in sorted(groups, key=lambda k: (k[0] != ours, k[2], k[1], k[0])):
        rows = groups[loss, views, local_views]
        look = {"color": GREY, "marker": markers[loss], "label": loss, "zorder": 1}
        if loss == ours:
            look = style(views, local_views)
            look |= {"label": f"{loss}, {look['label']}", "zorder": 2}
        x, y = ([value(row, column) for row in rows] for column in (name, runs.measure))
        axes.plot(x, y, ls="", ms=5, alpha=0.75, markeredgewidth=0, **look)
    axes.set_xlabel({"alpha": "alpha", "rankme": "RankMe", "lidar": "LiDAR"}[name])


def draw_losses(axes: Axes, scale: Scale, runs: Runs) -> None:
    """Draw accuracy at two widths of the projector, for every loss."""
    colors = (BLUE, RED, GREEN, PURPLE, SKY, ORANGE, BLACK, GREY)
    for i, (label, marker) in enumerate(zip(LOSS_ROWS, "ovP*XDps", strict=True)):
        configs = {dim: with_loss(scale, label, dim) for dim in LOSS_WIDTHS}
        # side by side, so that the intervals can be told apart
        shift = 1.06 ** (i - len(LOSS_ROWS) // 2)
        places = [(dim * shift, config) for dim, config in configs.items() if config]
        draw_means(axes, runs, places, label=label, color=colors[i], marker=marker, lw=1.2)
    axes.margins(x=0.15)
    _log(axes, "width of the projector", LOSS_WIDTHS)


def _log(axes: Axes, label: str, ticks: tuple[float, ...] | list[float] | None = None) -> None:
    axes.set(xscale="log", xlabel=label)
    if ticks:
        # every second label where all would touch
        step = 2 if len(ticks) > 7 else 1
        named = set(ticks[::-1][::step])
        axes.set_xticks(ticks, [f"{tick:g}" if tick in named else "" for tick in ticks])
    else:
        low, high = axes.get_xlim()
        ladder = [m * 10.0**e for e in range(-3, 5) for m in (1, 2, 5)]
        axes.set_xticks([tick for tick in ladder if low <= tick <= high])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())

"""Draw what examples/augmentation_graph.py finds; examples/augmentation_graph_figures.py is its
second half, called with `--figures`:

    python examples/augmentation_graph.py --figures docs/figures
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import matplotlib
from augmentation_graph import DIMS, VIEWS, WEIGHTS, Graph, thresholds
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

COLORS = ("#0072B2", "#D55E00", "#009E73")  # of Okabe and Ito, told apart by every eye
MARKERS = "os^"
LABELS = {"spectral": "beta", "bt": "lambd", "vicreg": "1 / w"}
TICKS = {"spectral": (0.02, 0.05, 0.1, 0.2, 0.5), "bt": (0.01, 0.1, 1), "vicreg": (0.01, 0.1, 1)}


def draw_graph(figure: Figure, graph: Graph) -> None:
    """Draw the graph in the colors of eigenfunctions, and the spectrum."""
    values, functions = graph.spectrum
    panels = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.2))
    edges = {pair for row in graph.augmentations.tolist() for pair in combinations(sorted(row), 2)}
    for axes, i in zip(panels, (0, 2, 5), strict=False):
        for pair in edges:
            axes.plot(*graph.places[list(pair)].T, color="0.8", lw=0.6, zorder=1)
        f = (functions / graph.root)[:, i]
        limit = float(f.abs().max())
        style = {"cmap": "PuOr", "vmin": -limit, "vmax": limit, "edgecolors": "0.2", "lw": 0.5}
        axes.scatter(*graph.places.T, c=f, s=32, zorder=2, **style)
        axes.set(xticks=[], yticks=[], title=f"{i + 1}: eigenvalue {values[i]:.2f}")
    panels[3].plot(range(1, len(values) + 1), values, "o-", color=COLORS[0], ms=4)
    panels[3].set(xlabel="eigenfunction", ylabel="eigenvalue of T_M", title="spectrum")
    panels[3].grid(alpha=0.3)


def draw_steps(figure: Figure, graph: Graph, curves: dict[str, Tensor]) -> None:
    """Draw the shares of eigenfunctions, and the overlap of all losses, against steps."""
    panels = figure.subplots(1, 3)
    shades = matplotlib.colormaps["viridis"]
    for axes, beta in zip(panels, ("0.25", "1"), strict=False):
        for i, found in enumerate(curves[f"spectral, beta {beta}"].T):
            color = shades(i / 6)
            axes.plot(found, color=color, label=f"{i + 1}: {graph.spectrum[0][i]:.2f}")
            axes.plot(curves[f"flow, beta {beta}"][:, i], "k:", lw=1)
        axes.set(xlabel="step", title=f"spectral, beta {beta}, 8 wide", ylim=(-0.03, 1.03))
    panels[0].set_ylabel("share of eigenfunction")
    panels[0].plot([], [], "k:", lw=1, label="exact flow")
    handles, labels = panels[0].get_legend_handles_labels()
    place = {"loc": "outside lower left", "ncols": 7, "fontsize": "small"}
    figure.legend(handles, labels, title="eigenfunction: eigenvalue", **place)
    for name, color, line in zip(WEIGHTS, COLORS, ("-", "--", "-."), strict=True):
        share = curves[name].mean(1)
        panels[2].plot(range(1, len(share) + 1), share, line, color=color, label=name)
    panels[2].set(xscale="log", xlabel="step", ylim=(-0.03, 1.03), title="4 wide")
    panels[2].set_ylabel("overlap with the top 4")
    panels[2].legend(fontsize="small", loc="lower right")


def draw_used(figure: Figure, graph: Graph, rows: list[tuple]) -> None:
    """Draw the number of eigenfunctions used against the weight, theory as steps."""
    for axes, name in zip(figure.subplots(1, 3, sharey=True), WEIGHTS, strict=True):
        weights = WEIGHTS[name]
        for dim, color, marker in zip(DIMS, COLORS, MARKERS, strict=True):
            limits = [t for t in thresholds(name, graph.spectrum[0], dim) if t > 0]
            known = dim - len(limits)
            x = [weights[0] * 0.6, *sorted(limits), weights[-1] * 1.6]
            y = [known, *range(known + 1, dim + 1), dim]
            axes.step(x, y, where="post", color=color, lw=1, alpha=0.8)
            used = [row[3] for row in rows if row[:2] == (name, dim)]
            axes.plot(weights, used, marker, color=color, label=f"D = {dim}", ms=5 + 2 * (dim < 8))
        axes.set(xscale="log", yscale="log", xlabel=LABELS[name], title=name)
        axes.set(xlim=(weights[0] * 0.6, weights[-1] * 1.6), ylim=(0.9, 18))
        axes.set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        axes.set_xticks(TICKS[name], list(map(str, TICKS[name])))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.plot([], [], "k-", lw=1, label="theory")
    figure.axes[0].set_ylabel("eigenfunctions used")
    figure.axes[1].legend(fontsize="small", loc="upper left")


def draw_errors(figure: Figure, rows: list[tuple]) -> None:
    """Draw the errors against the number of views, their laws dashed."""
    panels = figure.subplots(1, 2)
    titles = ("error of the first 5 eigenvalues", "1 - overlap of the first 3 eigenfunctions")
    for axes, title, column in zip(panels, titles, (2, 4), strict=True):
        _draw_errors_of(axes, rows, column)
        axes.set(xscale="log", yscale="log", xlabel="views of each image, V", title=title)
        axes.set_xticks(VIEWS, list(map(str, VIEWS)))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].plot([], [], "k:", label="law")
    panels[0].set_ylabel("root mean square")
    panels[0].legend(fontsize="small")


def _draw_errors_of(axes: Axes, rows: list[tuple], column: int) -> None:
    series = list(dict.fromkeys(row[0] for row in rows))
    for name, color, marker in zip(series, COLORS, MARKERS, strict=True):
        found = [row for row in rows if row[0] == name]
        axes.plot(VIEWS, [row[column] for row in found], marker + "-", color=color, label=name)
        axes.plot(VIEWS, [row[column + 1] for row in found], ":", color=color, lw=2)


def draw(
    folder: Path, graph: Graph, curves: dict[str, Tensor], used: list[tuple], errors: list[tuple]
) -> None:
    """Write the four figures.

    Args:
        folder: Folder for the figures; made if it is not there.
        graph: Graph.
        curves: Curves of ``learn``.
        used: Rows of ``count_used``.
        errors: Rows of ``measure_errors``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, height, function, content in (
        ("graph", 2.6, draw_graph, (graph,)),
        ("steps", 3.4, draw_steps, (graph, curves)),
        ("weight", 3.2, draw_used, (graph, used)),
        ("views", 3.2, draw_errors, (errors,)),
    ):
        figure = Figure(figsize=(9, height), dpi=100, layout="constrained")
        function(figure, *content)
        file = folder / f"theory-{name}.png"
        figure.savefig(file, metadata={"Software": None})
        picture = Image.open(file).convert("RGB")
        picture.quantize(256).save(file, optimize=True)  # half as large
        print(file)

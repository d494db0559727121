"""Charts as inline SVG, with real text and in the text color of the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# contrast of at least 3.4 to 1 with white and with near-black
COLORS = (
    "#2f7ee6",
    "#d2691e",
    "#2a9a53",
    "#b455d0",
    "#d8434e",
    "#7d8590",
    "#0f98a8",
    "#a57c00",
    "#e0559a",
    "#6f6cf0",
)
INK = "#010203"  # placeholder for the text color of the page
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.4,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True)
class Chart:
    """A chart, or the reason why there is none.

    Attributes:
        title: Title.
        svg: Drawing; None if there is nothing to draw.
        text: Caption, or the reason why there is no drawing.
    """

    title: str
    svg: Markup | None
    text: str = ""


def legend(axes: Axes) -> None:
    """Put the legend above the axes, where it hides no lines."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        borderpad=0,
        borderaxespad=0.2,
        handlelength=1.2,
        columnspacing=1,
    )


def draw(
    key: str, title: str, plot: Callable, *, text: str = "", size: tuple[float, float] = (4.6, 2.8)
) -> Chart:
    """Draw a chart with matplotlib.

    Args:
        key: Prefix of all ids, to make them unique in a page.
        title: Title, also for screen readers.
        plot: Function that draws on given axes.
        text: Caption.
        size: Width and height in inches, at 72 px each.
    """
    import matplotlib
    from matplotlib.figure import Figure

    file = StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": key}):
        figure = Figure(figsize=size, layout="constrained")
        plot(figure.subplots())
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]  # drop the XML declaration
    for part in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r' xmlns(:xlink)?="[^"]*"'):
        svg = re.sub(part, "", svg, flags=re.S)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{key}-", svg)
    svg = svg.replace(INK, "currentColor")
    width, height = (f"{72 * side:g}" for side in size)
    opening = f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height}">'
    return Chart(title, Markup(re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)), text)

"""Eigenspectra of features and projections over a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effssl.report._run import Run
from effssl.report._svg import COLORS, INK, Chart, draw, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OVER_TIME = ("#0f98a8", "#2f7ee6", "#6f6cf0", "#b455d0", "#d8434e", "#d2691e")
_COLUMNS = {  # title and decimals
    "images": ("Images", 0),
    "width": ("Width", 0),
    "alpha": ("alpha", 2),
    "alpha_fit": ("r2", 3),
    "rankme": ("RankMe", 1),
    "effective_rank": ("Effective rank", 1),
    "std": ("Unit std", 2),
    "lidar": ("LiDAR", 1),
    "alignment": ("Alignment", 3),
    "uniformity": ("Uniformity", 3),
}
_ROUNDING = 1e-10  # share of the largest eigenvalue below which float32 features are noise


def spectrum_charts(run: Run) -> list[Chart]:
    """Return charts of eigenspectra with the fit of alpha, and of alpha and RankMe over epochs."""
    looks = run.looks()
    if not looks:
        why = "Not measured yet."
        if run.config.evaluate_every == 0:
            why = "Not measured: evaluate_every is 0."
        elif run.config.streaming:
            why = "Not measured: a stream has no images that can be looked at again."
        return [Chart("Eigenspectrum", None, why)]
    charts = [_spectra(looks, of) for of in ("features", "projections")]
    for key, title in {
        "alpha": "alpha: how fast eigenvalues fall with their rank",
        "rankme": "RankMe: how many dimensions are in use",
    }.items():
        charts.append(_over_epochs(looks, key, title))
    return charts


def spectrum_table(run: Run) -> tuple[list[str], list[list[str]], str]:
    """Return titles, rows and a sentence: first and last measurement of the run, and evaluations.

    There are no rows if nothing was measured.
    """
    looks = run.looks()
    found = [(f"epoch {x['epoch']:g}", x["spectrum"]) for x in looks[:1] + looks[1:][-1:]]
    for one in run.training.evaluation:
        found.append((f"{one.dataset or 'evaluation'}, {one.test_split}", one.spectrum or {}))
    found = [
        (of, when, x[of]) for when, x in found for of in ("features", "projections") if x.get(of)
    ]
    columns = {k: v for k, v in _COLUMNS.items() if any(k in values for _, _, values in found)}
    rows = []
    for of, when, values in found:
        values = values | {"alpha_fit": (values.get("alpha_fit") or {}).get("r2")}
        rows.append([of, when, *(_digits(values.get(key), n) for key, (_, n) in columns.items())])
    text = ""
    for _, _, values in found:
        if {"viewed_images", "views", "preset"} <= values.keys():
            text = (
                f"LiDAR, alignment and uniformity are of {values['views']} views, preset "
                f"{values['preset']}, of {values['viewed_images']:,} images."
            )
    return ["Of", "When", *(title for title, _ in columns.values())], rows, text


def _spectra(looks: list[dict], of: str) -> Chart:
    title = f"Eigenspectrum of the {of}"
    found = [(x["epoch"], x["spectrum"][of]) for x in looks if x["spectrum"].get(of)]
    looked = len(found)
    found = [(epoch, one, _above_rounding(one)) for epoch, one in found]
    found = [look for look in found if len(look[2]) > 1]
    if not found:
        why = "At no look are two eigenvalues above rounding." if looked else "Not measured."
        return Chart(title, None, why)
    count = min(len(_OVER_TIME), len(found))
    shown = [found[round(i * (len(found) - 1) / max(1, count - 1))] for i in range(count)]
    colors = _OVER_TIME[-1:] if count == 1 else _OVER_TIME[:: max(1, 5 // (count - 1))]
    last = shown[-1][1]
    fit = last.get("alpha_fit") if last.get("alpha") is not None else None

    def plot(axes: Axes) -> None:
        for (epoch, _, points), color in zip(shown, colors, strict=False):
            axes.plot(*zip(*points, strict=True), color=color, label=f"epoch {epoch:g}")
        if fit:
            ends = [fit["first"], fit["last"]]
            line = [fit["scale"] * rank ** -last["alpha"] for rank in ends]
            label = f"alpha {last['alpha']:.2f}"
            axes.plot(ends, line, "--", color=INK, linewidth=1, label=label)
        axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="eigenvalue")
        axes.legend(loc="lower left", handlelength=1.2)

    text = f"Of {last['images']:,} images, {last['width']:,} wide. "
    if fit:
        text += (
            f"Dashed: rank to the power of -{last['alpha']:.2f}, fitted from rank {fit['first']} "
            f"to {fit['last']} at epoch {shown[-1][0]:g} (r2 {fit['r2']:.3f}). "
        )
    if looked > len(found):
        text += f"Left out: {looked - len(found)} looks with one eigenvalue or none above rounding."
    return draw(of, title, plot, text=text)


def _over_epochs(looks: list[dict], key: str, title: str) -> Chart:
    series = {}
    for of in ("features", "projections"):
        points = [(x["epoch"], (x["spectrum"].get(of) or {}).get(key)) for x in looks]
        points = [point for point in points if point[1] is not None]
        if len(points) > 1:
            series[of] = points
    if not series:
        return Chart(title, None, "Fewer than two looks; a curve needs two.")

    def plot(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for (of, points), color in zip(series.items(), COLORS, strict=False):
            axes.plot(*zip(*points, strict=True), ".-", color=color, label=of)
        axes.set(xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        legend(axes)

    return draw(key, title, plot)


def _above_rounding(spectrum: dict) -> list[tuple[int, float]]:
    pairs = list(zip(spectrum["rank"], spectrum["eigenvalue"], strict=True))
    least = _ROUNDING * max((value or 0 for _, value in pairs), default=0)
    return [(rank, value) for rank, value in pairs if value is not None and value > least]


def _digits(value: float | None, count: int) -> str:
    return "–" if value is None else f"{value:,.{count}f}"

"""The claims of the method as comparisons of two configurations, with simultaneous intervals.

The intervals of a table hold together: all of them cover in 95 of 100 repetitions, by Bonferroni's
correction for the number of comparisons that the table shows, for each measure on its own. The
variance over seeds is pooled over all configurations, that of the widest projector on its own. The
three comparisons that decide the claims have the variances of their own runs alone. The choice of
test images is not covered.
"""

from __future__ import annotations

import dataclasses
import math

from experiments import REFERENCE_WIDTH, Scale, local
from runs_table import MEASURES, Runs, measures, steady_runs

from effssl import PretrainConfig
from effssl.loss_weights import barlow_twins_lambd

MARGIN = 0.5
"""Margin of "as good" in points of accuracy: not worse by more."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A claim that the first of two configurations is better than the second, or as good."""

    text: str
    first: PretrainConfig
    second: PretrainConfig
    better: bool = False

    def verdict(self, runs: Runs, comparisons: int = 1, *, pooled: bool = True) -> tuple[str, str]:
        """Return the difference with its interval, and the verdict; empty if a run is missing.

        Args:
            runs: Runs of a scale with one measure.
            comparisons: Number of comparisons whose intervals shall hold together.
            pooled: As for `Runs.half_width`.

        Returns:
            Difference in points, and "holds", "does not hold" or "undecided".
        """
        difference = runs.mean(self.first) - runs.mean(self.second)
        half = runs.half_width(self.first, self.second, comparisons=comparisons, pooled=pooled)
        if math.isnan(half):
            return "", ""
        bar = 0.0 if self.better else -MARGIN
        verdict = "undecided"
        if difference - half > bar:
            verdict = "holds"
        elif difference + half < bar:
            verdict = "does not hold"
        return f"{difference:+.1f} ± {half:.1f}", verdict


def deciding(scale: Scale) -> list[Comparison]:
    """Return the comparison that decides each of the three claims of the method."""
    run, dim = scale.run, scale.small_width
    batch = {"batch_size": scale.width_batch_size}
    return [
        Comparison(
            f"width: {dim} wide, weight from the width, as good as {REFERENCE_WIDTH} wide, 2 views",
            run(projector_dim=dim, **batch),
            run(projector_dim=REFERENCE_WIDTH, **batch),
        ),
        Comparison(
            "views: equal epochs (twice the views), 4 views better than 2",
            run(views=4),
            run(),
            better=True,
        ),
        Comparison(
            "data: 4 views of half of the images as good as 2 of all, equal views in all",
            scale.share(2, views=4),
            run(),
        ),
    ]


def comparisons(scale: Scale) -> list[Comparison]:
    """Return every comparison of two configurations."""
    return [*_of_width(scale), *_of_views(scale), *_of_data(scale), *_of_form(scale)]


def _of_width(scale: Scale) -> list[Comparison]:
    run, batch = scale.run, {"batch_size": scale.width_batch_size}
    fixed = barlow_twins_lambd(REFERENCE_WIDTH)
    own = []
    if scale.tuned:
        text = f"{scale.small_width} wide as good as {REFERENCE_WIDTH} wide, "
        text += "each with its own settings"
        own.append(Comparison(text, scale.tuned_run(scale.small_width), scale.wide))
    return [
        *own,
        *(
            Comparison(
                f"{dim} wide, weight from the width, as good as {REFERENCE_WIDTH} wide",
                run(projector_dim=dim, **batch),
                run(projector_dim=REFERENCE_WIDTH, **batch),
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
    ]


def _of_views(scale: Scale) -> list[Comparison]:
    run = scale.run
    found = [
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
            scale.reference,
        ),
    ]
    if "local" in scale.studies:
        small_crops, _, two, four = local(scale)
        text = "2 + 6 local views, equal epochs: "
        found += [
            Comparison(f"{text}as good as 4 views", small_crops, four),
            Comparison(f"{text}better than 2 views", small_crops, two, better=True),
        ]
    return found


def _of_data(scale: Scale) -> list[Comparison]:
    run, share = scale.run, scale.share
    return [
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
    ]


def _of_form(scale: Scale) -> list[Comparison]:
    run = scale.run
    return [
        Comparison("4 views: mean as good as pairs", run(views=4, multiview="mean"), run(views=4)),
        Comparison(
            "4 views: spectral as good as pairs", run(views=4, loss="spectral"), run(views=4)
        ),
    ]


def claims_of_the_method(scale: Scale, rows: list[dict[str, str]]) -> str:
    """Return a Markdown table of the three claims, each by the comparison named in advance.

    The linear probe decides. The intervals hold together for the three.
    """
    named = deciding(scale)
    return _table("claim of the method", "linear, which decides", named, scale, rows, len(named))


def claims(scale: Scale, rows: list[dict[str, str]]) -> str:
    """Return a Markdown table of all comparisons that were run, whose intervals hold together."""
    return _table("comparison", "linear", comparisons(scale), scale, rows)


def shown(scale: Scale, rows: list[dict[str, str]], measure: str) -> int:
    """Return the number of comparisons that the table of all shows by this measure."""
    runs = steady_runs(scale, rows, measure)
    return sum(bool(claim.verdict(runs)[0]) for claim in comparisons(scale))


def _table(
    title: str,
    first: str,
    claims: list[Comparison],
    scale: Scale,
    rows: list[dict[str, str]],
    together: int | None = None,
) -> str:
    """Lay out comparisons by every measure, corrected for this number or for those shown."""
    by_measure = [steady_runs(scale, rows, name) for name in measures(rows)]
    by_measure = [runs for runs in by_measure if runs.rows]
    names = [first, *(MEASURES[runs.measure] for runs in by_measure[1:])]
    lines = [
        f"| {title} | seeds | {' | | '.join(names)} | |",
        "|---|--:|" + "--:|---|" * len(names),
    ]
    counts = [sum(bool(c.verdict(runs)[0]) for c in claims) for runs in by_measure]
    for claim in claims:
        cells = []
        for runs, count in zip(by_measure, counts, strict=True):
            cells += claim.verdict(runs, together or count, pooled=not together)
        if any(cells):
            seeds = [str(len(by_measure[0].of(config))) for config in (claim.first, claim.second)]
            lines.append(f"| {' | '.join([claim.text, ', '.join(seeds), *cells])} |")
    return "\n".join(lines)

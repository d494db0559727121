"""Figures of a model card."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from effssl.atomic import replacing
from effssl.records import TrainingRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = ("loss.png", "spectrum.png")


def draw_figures(training: TrainingRecord, folder: Path) -> None:
    """Draw the figures that the record has numbers for into a model folder; delete the others.

    Args:
        training: Record of the model.
        folder: The model folder.
    """
    history = training.history
    spectra = [found.spectrum for found in training.evaluation if found.spectrum]
    draws = {
        FIGURES[0]: functools.partial(_draw_loss, history) if history else None,
        FIGURES[1]: functools.partial(_draw_spectrum, spectra[0]) if spectra else None,
    }
    for name, draw in draws.items():
        if draw is None:
            (folder / name).unlink(missing_ok=True)
            continue
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3), dpi=120, layout="constrained")
        draw(figure.subplots())
        with replacing(folder / name, "wb") as file:
            figure.savefig(file, format="png", metadata={"Software": None})


def _draw_loss(history: dict, axes: Axes) -> None:
    axes.plot(history["epoch"], history["loss"], color="C0")
    axes.set(xlabel="epoch", ylabel="loss")
    if any(value is not None for value in history.get("knn", [])):
        points = [
            (e, k) for e, k in zip(history["epoch"], history["knn"], strict=True) if k is not None
        ]
        other = axes.twinx()
        other.plot(*zip(*points, strict=True), "o-", color="C1")
        other.set_ylabel("k-NN top-1 of held-out images, %", color="C1")
    axes.grid(alpha=0.3)


def _draw_spectrum(spectra: dict, axes: Axes) -> None:
    for i, (name, found) in enumerate(spectra.items()):
        if not found["eigenvalue"][0]:  # all features are the same
            continue
        values = [value / found["eigenvalue"][0] for value in found["eigenvalue"]]
        shown = [(r, v) for r, v in zip(found["rank"], values, strict=True) if v > 1e-10]
        axes.loglog(*zip(*shown, strict=True), ".", color=f"C{i}", label=name)
        if fit := found["alpha_fit"]:
            ends = [fit["first"], fit["last"]]
            line = [fit["scale"] * r ** -found["alpha"] / found["eigenvalue"][0] for r in ends]
            label = f"rank to the power of -{found['alpha']:.2f}"
            axes.loglog(ends, line, color=f"C{i}", label=label)
    axes.set(xlabel="rank", ylabel="eigenvalue / the largest")
    if axes.lines:
        axes.legend()
    axes.grid(alpha=0.3, which="both")

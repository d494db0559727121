"""Facts about the losses: one `LossSpec` for each, in `LOSSES`.

A new loss is a function in ``effssl/losses/<function>.py`` and a record here. The factory, names
of models, the command line, model cards and reports read the record. This module imports no torch,
so that ``effssl --help`` answers at once; therefore it is not part of ``effssl.losses``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from effssl.loss_weights import (
    barlow_twins_lambd,
    coding_rate_invariance,
    sigreg_lambd,
    simclr_temperature,
    spectral_beta,
    vicreg_weight,
)
from effssl.papers import (
    BARLOW_TWINS,
    EMP_SSL,
    LEJEPA,
    SIMCLR,
    VICREG,
    W_MSE,
    Paper,
)

# the names in LOSSES, for type checkers and tyro
LossName = Literal["bt", "vicreg", "spectral", "simclr", "sigreg", "coding_rate", "wmse"]

LEAST_IMAGES = 2
"""Least number of images of a batch for a loss, unless its record says more."""


@dataclass(frozen=True)
class Shape:
    """Shape of the projections of a batch.

    Attributes:
        views: Number of views, V.
        images: Number of images on all processes, N.
        dim: Width of the projector, D.
        global_views: Number of views of which one is in each pair that counts, G.
    """

    views: int
    images: int
    dim: int
    global_views: int


@dataclass(frozen=True)
class Scale:
    """Scale of a part of a loss, which is 0 at best.

    Attributes:
        when: When the part is ``value``, in words that follow "for".
        value: Map the shape of the projections to the value of the part then.
    """

    when: str
    value: Callable[[Shape], float]


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """Facts about a loss.

    Attributes:
        name: Name in configurations and in names of models.
        function: Name of the function, and of its module in ``effssl.losses``.
        weights: Arguments of the function that the configured weight sets; none if empty.
        default_weight: Map the width D of the projector to the default weight.
        most_weight: Largest weight.
        blank: Map the shape of the projections and the weight to the loss of projections that are
            the same for all images.
        nothing_from: Share of ``blank`` from which on nothing is learned.
        parts: Scale of each part that the function returns, by name.
        least_images: Map the width D of the projector to the least number of images of a batch.
        ignores_shifts: Whether a vector that is added to all projections changes nothing.
        multiview: Forms for more than two views; the function takes ``multiview`` if there are two.
        title: Name in sentences and tables.
        card_tag: Tag of model cards.
        timm_tag: First word of the weights' tag in timm's form.
        papers: Publications besides `effssl.papers.METHOD`.
    """

    name: LossName
    function: str
    weights: tuple[str, ...] = ()
    default_weight: Callable[[int], float] = lambda dim: math.nan
    most_weight: float = math.inf
    blank: Callable[[Shape, float], float]
    nothing_from: float
    parts: Mapping[str, Scale]
    least_images: Callable[[int], int] = lambda dim: LEAST_IMAGES
    ignores_shifts: bool = True
    multiview: tuple[str, ...] = ("pairs",)
    title: str
    card_tag: str
    timm_tag: str
    papers: tuple[Paper, ...] = ()

    def check_weight(self, weight: float, name: str) -> None:
        """Raise ValueError if the loss has no weight, or not such a one.

        Args:
            weight: Weight that is given.
            name: What it is called where it was given.
        """
        if not self.weights:
            raise ValueError(f"the loss {self.name} has no weight: leave {name} out")
        if not 0 <= weight <= self.most_weight:
            most = "0 or more" if self.most_weight == math.inf else f"0 to {self.most_weight:g}"
            raise ValueError(
                f"{name} is the {self.weights[0]} of the loss {self.name}, {most}, got {weight}"
            )

    def check_multiview(self, form: str, name: str) -> None:
        """Raise ValueError if the loss has no such form for more than two views.

        Args:
            form: Form that is given.
            name: What it is called where it was given.
        """
        if form not in ("pairs", "mean"):
            raise ValueError(f"{name} is 'pairs' or 'mean', got {form!r}")
        if form not in self.multiview:
            able = " and ".join(spec.name for spec in LOSSES.values() if form in spec.multiview)
            raise ValueError(
                f"{name} {form} is for the loss {able}; {self.name} has one form for any number of "
                "views: leave it at pairs"
            )

    def explain(self, shape: Shape, weight: float) -> str:
        """Return a sentence about the scale of the loss and its parts.

        Args:
            shape: Shape of the projections of a batch.
            weight: Weight of the loss.
        """
        parts = ", ".join(
            f"{name} {scale.value(shape):.4g} for {scale.when}"
            for name, scale in self.parts.items()
        )
        title = self.title[0].upper() + self.title[1:]
        return (
            f"{title} is {self.blank(shape, weight):.4g} where nothing is learned, and lower is "
            f"better; its parts are 0 at best, {parts}"
        )


# what a network that has learned nothing, or unlearned everything, gives the parts
_UNRELATED_VIEWS, _SAME_IMAGES = "unrelated views", "images that are all the same"
_SAME_DIMENSIONS = "dimensions that are all the same"

_ZERO_STATISTIC = math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + 1 / math.sqrt(3))
"""Statistic of Epps and Pulley of N numbers that are all 0, divided by N."""


def _unrelated_from_mean(shape: Shape) -> float:
    """Return the mean squared distance of views from the mean of the global ones.

    It is that of views that are unrelated and of variance 1: 1 - 1/G for a global view, which is
    part of the mean, and 1 + 1/G for another.
    """
    views, g = shape.views, shape.global_views
    return (g * (1 - 1 / g) + (views - g) * (1 + 1 / g)) / views


def _largest_rate(shape: Shape, eps: float = 0.2) -> float:
    """Return the coding rate of rows that are spread evenly over all directions."""
    rank = min(shape.images, shape.dim)
    return rank / 2 * math.log1p(shape.dim / (rank * eps))


def _least_rate(shape: Shape, eps: float = 0.2) -> float:
    """Return the coding rate of rows that are all the same."""
    return math.log1p(shape.dim / eps) / 2


_SPECS = (
    LossSpec(
        name="bt",
        function="barlow_twins",
        weights=("lambd",),
        default_weight=barlow_twins_lambd,
        blank=lambda shape, weight: shape.dim,
        nothing_from=0.93,
        parts={
            "invariance": Scale(_UNRELATED_VIEWS, lambda shape: 1),
            "redundancy": Scale(_SAME_DIMENSIONS, lambda shape: shape.dim - 1),
        },
        multiview=("pairs", "mean"),
        title="Barlow Twins",
        card_tag="barlow-twins",
        timm_tag="barlow",
        papers=(BARLOW_TWINS,),
    ),
    LossSpec(
        name="vicreg",
        function="vicreg",
        weights=("invariance", "variance"),
        default_weight=vicreg_weight,
        blank=lambda shape, weight: 0.99 * weight,  # 1e-4 is added to the variance
        nothing_from=0.95,
        parts={
            "invariance": Scale(_UNRELATED_VIEWS, lambda shape: 2),
            "variance": Scale(_SAME_IMAGES, lambda shape: 0.99),
            "covariance": Scale(_SAME_DIMENSIONS, lambda shape: 2 * (shape.dim - 1)),
        },
        title="VICReg",
        card_tag="vicreg",
        timm_tag="vicreg",
        papers=(VICREG,),
    ),
    LossSpec(
        name="spectral",
        function="spectral",
        weights=("beta",),
        default_weight=spectral_beta,
        blank=lambda shape, weight: shape.dim * weight,
        nothing_from=1.0,  # it falls by 1 at most for each dimension that a batch fills
        parts={
            "invariance": Scale(_UNRELATED_VIEWS, lambda shape: 1),
            "orthogonality": Scale(_SAME_IMAGES, lambda shape: 1),
        },
        title="the spectral loss",
        card_tag="spectral-contrastive",  # stays, since published cards have it
        timm_tag="spectral",
    ),
    LossSpec(
        name="simclr",
        function="simclr",
        weights=("temperature",),
        default_weight=simclr_temperature,
        blank=lambda shape, weight: math.log1p(shape.views * (shape.images - 1)),
        nothing_from=0.97,
        parts={
            "invariance": Scale(_UNRELATED_VIEWS, lambda shape: 1),
            "uniformity": Scale(_SAME_IMAGES, lambda shape: 1),
        },
        ignores_shifts=False,
        title="SimCLR",
        card_tag="simclr",
        timm_tag="simclr",
        papers=(SIMCLR,),
    ),
    LossSpec(
        name="sigreg",
        function="sigreg",
        weights=("lambd",),
        default_weight=sigreg_lambd,
        most_weight=1.0,
        blank=lambda shape, weight: weight * _ZERO_STATISTIC * shape.images,
        nothing_from=0.95,
        parts={
            "invariance": Scale(_UNRELATED_VIEWS, _unrelated_from_mean),
            "normality": Scale("projections that are all 0", lambda shape: _ZERO_STATISTIC),
        },
        ignores_shifts=False,
        title="SIGReg",
        card_tag="sigreg",
        timm_tag="sigreg",
        papers=(LEJEPA,),
    ),
    LossSpec(
        name="coding_rate",
        function="coding_rate",
        weights=("invariance",),
        default_weight=coding_rate_invariance,
        blank=lambda shape, weight: _largest_rate(shape) - _least_rate(shape),
        nothing_from=0.95,
        parts={
            "invariance": Scale(
                _UNRELATED_VIEWS, lambda shape: 1 - math.sqrt(shape.global_views) / shape.views
            ),
            "rate": Scale(
                _SAME_IMAGES, lambda shape: 1 - _least_rate(shape) / _largest_rate(shape)
            ),
        },
        ignores_shifts=False,
        title="the coding rate",
        card_tag="emp-ssl",
        timm_tag="codingrate",
        papers=(EMP_SSL,),
    ),
    LossSpec(
        name="wmse",
        function="wmse",
        blank=lambda shape, weight: 2,
        nothing_from=0.97,
        parts={"invariance": Scale(_UNRELATED_VIEWS, lambda shape: 1)},
        least_images=lambda dim: dim + 1,
        title="W-MSE",
        card_tag="w-mse",
        timm_tag="wmse",
        papers=(W_MSE,),
    ),
)
LOSSES: dict[str, LossSpec] = {spec.name: spec for spec in _SPECS}


def least_images(loss: str, dim: int) -> int:
    """Return the least number of images of a batch for a loss at a width of the projector."""
    return LOSSES[loss].least_images(dim) if loss in LOSSES else LEAST_IMAGES


def ignores_shifts(loss: str) -> bool:
    """Return whether a vector added to all projections changes nothing; so for one's own."""
    return loss not in LOSSES or LOSSES[loss].ignores_shifts


def papers_of(loss: str) -> tuple[Paper, ...]:
    """Return the publications of a loss besides the method's; none for a loss of one's own."""
    return LOSSES[loss].papers if loss in LOSSES else ()

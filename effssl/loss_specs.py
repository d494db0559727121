"""Facts about the losses: one `LossSpec` for each, in `LOSSES`.

A new loss is a function in ``effssl/losses/<function>.py`` and a record here. The factory, names
of models, the command line, model cards and reports read the record. This module imports no torch,
so that ``effssl --help`` answers at once; therefore it is not part of ``effssl.losses``.

The default weights are those that Agrawal et al. (`METHOD`) found best for each width D of the
projector, with batches of 512 images and 2 views (CIFAR-10, ResNet-50). Between two of their widths
the weight is interpolated linearly in (log D, log weight); beyond them it is that of the nearest
width. A narrower projector needs a stronger pull toward orthogonality.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

LossName = Literal["bt", "vicreg", "spectral"]  # the names in LOSSES, for type checkers and tyro

BARLOW_TWINS_LAMBD = {
    64: 0.04,
    128: 0.04,
    256: 0.02,
    512: 0.01,
    768: 0.002,
    1024: 0.002,
    1536: 0.001,
    2048: 0.001,
    2304: 0.001,
    2560: 0.0008,
    3072: 0.001,
    4096: 0.0004,
    6144: 0.001,
    8192: 0.0008,
}
VICREG_WEIGHT = {64: 20, 128: 20, 256: 25, 512: 25, 1024: 25, 2048: 75, 4096: 200, 8192: 800}


@dataclass(frozen=True)
class Paper:
    """A publication.

    Attributes:
        arxiv: Identifier on arXiv.
        bibtex: Entry for a bibliography.
    """

    arxiv: str
    bibtex: str


@dataclass(frozen=True)
class Scale:
    """Scale of a part of a loss, which is 0 at best.

    Attributes:
        when: When the part is ``value``, in words that follow "for".
        value: Map the width D of the projector to the value of the part then.
    """

    when: str
    value: Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """Facts about a loss.

    Attributes:
        name: Name in configurations and in names of models.
        function: Name of the function, and of its module in ``effssl.losses``.
        weights: Arguments of the function that the configured weight sets.
        default_weight: Map the width D of the projector to the default weight.
        blank: Map D and the weight to the loss of projections that are the same for all images.
        nothing_from: Share of ``blank`` from which on nothing is learned.
        parts: Scale of each part that the function returns, by name.
        multiview: Forms for more than two views; the function takes ``multiview`` if there are two.
        title: Name in sentences and tables.
        card_tag: Tag of model cards.
        timm_tag: First word of the weights' tag in timm's form.
        papers: Publications besides `METHOD`.
    """

    name: LossName
    function: str
    weights: tuple[str, ...]
    default_weight: Callable[[int], float]
    blank: Callable[[int, float], float]
    nothing_from: float
    parts: Mapping[str, Scale]
    multiview: tuple[str, ...] = ("pairs",)
    title: str
    card_tag: str
    timm_tag: str
    papers: tuple[Paper, ...] = ()

    def explain(self, dim: int, weight: float) -> str:
        """Return a sentence about the scale of the loss and its parts.

        Args:
            dim: Width D of the projector.
            weight: Weight of the loss.
        """
        parts = ", ".join(
            f"{name} {scale.value(dim):.4g} for {scale.when}" for name, scale in self.parts.items()
        )
        title = self.title[0].upper() + self.title[1:]
        return (
            f"{title} is {self.blank(dim, weight):.4g} where nothing is learned, and lower is "
            f"better; its parts are 0 at best, {parts}"
        )


def barlow_twins_lambd(dim: int) -> float:
    """Return the default weight of the off-diagonal (redundancy) term of Barlow Twins.

    A line through the table has slope -1.02 (about 2.9 / D); single widths scatter about it by a
    factor of 1.7.
    """
    return _interpolate(BARLOW_TWINS_LAMBD, dim)


def vicreg_weight(dim: int) -> float:
    """Return the default weight of the invariance and variance terms of VICReg, for covariance 1.

    About 23 up to D = 1024, then rising as D^1.64.
    """
    return _interpolate(VICREG_WEIGHT, dim)


def spectral_beta(dim: int) -> float:
    """Return the default weight of the orthogonality term of the spectral loss: 1 for every D."""
    return 1.0


def _interpolate(table: Mapping[int, float], dim: int) -> float:
    widths = list(table)
    i = bisect_left(widths, dim)
    if i == 0:
        return float(table[widths[0]])
    if i == len(widths):
        return float(table[widths[-1]])
    low, high = widths[i - 1], widths[i]
    t = math.log(dim / low) / math.log(high / low)
    return table[low] ** (1 - t) * table[high] ** t


# what a network that has learned nothing, or unlearned everything, gives the parts
_UNRELATED_VIEWS, _SAME_IMAGES = "unrelated views", "images that are all the same"
_SAME_DIMENSIONS = "dimensions that are all the same"

METHOD = Paper(  # small projectors and many views, for every loss
    arxiv="2312.10725",
    bibtex="""@inproceedings{agrawal2024harnessing,
  title={Harnessing small projectors and multiple views for efficient vision pretraining},
  author={Agrawal, Kumar Krishna and Ghosh, Arna and Sodhani, Shagun and Oberman, Adam and
    Richards, Blake},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024}
}""",
)
BARLOW_TWINS = Paper(
    arxiv="2103.03230",
    bibtex="""@inproceedings{zbontar2021barlow,
  title={Barlow Twins: Self-Supervised Learning via Redundancy Reduction},
  author={Zbontar, Jure and Jing, Li and Misra, Ishan and LeCun, Yann and Deny, St{\\'e}phane},
  booktitle={International Conference on Machine Learning},
  year={2021}
}""",
)
VICREG = Paper(
    arxiv="2105.04906",
    bibtex="""@inproceedings{bardes2022vicreg,
  title={{VICReg}: Variance-Invariance-Covariance Regularization for Self-Supervised Learning},
  author={Bardes, Adrien and Ponce, Jean and LeCun, Yann},
  booktitle={International Conference on Learning Representations},
  year={2022}
}""",
)

_SPECS = (
    LossSpec(
        name="bt",
        function="barlow_twins",
        weights=("lambd",),
        default_weight=barlow_twins_lambd,
        blank=lambda dim, weight: dim,
        nothing_from=0.93,
        parts={
            "invariance": Scale(_UNRELATED_VIEWS, lambda dim: 1),
            "redundancy": Scale(_SAME_DIMENSIONS, lambda dim: dim - 1),
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
        blank=lambda dim, weight: 0.99 * weight,  # 1e-4 is added to the variance
        nothing_from=0.95,
        parts={
            "invariance": Scale(_UNRELATED_VIEWS, lambda dim: 2),
            "variance": Scale(_SAME_IMAGES, lambda dim: 0.99),
            "covariance": Scale(_SAME_DIMENSIONS, lambda dim: 2 * (dim - 1)),
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
        blank=lambda dim, weight: dim * weight,
        nothing_from=1.0,  # it falls by 1 at most for each dimension that a batch fills
        parts={
            "invariance": Scale(_UNRELATED_VIEWS, lambda dim: 1),
            "orthogonality": Scale(_SAME_IMAGES, lambda dim: 1),
        },
        title="the spectral loss",
        card_tag="spectral-contrastive",  # stays, since published cards have it
        timm_tag="spectral",
    ),
)
LOSSES: dict[str, LossSpec] = {spec.name: spec for spec in _SPECS}


def papers_of(loss: str) -> tuple[Paper, ...]:
    """Return the publications of a loss besides `METHOD`; none of a loss of one's own."""
    return LOSSES[loss].papers if loss in LOSSES else ()

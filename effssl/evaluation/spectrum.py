"""Label-free measures of the spectrum of features: how many dimensions they use."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

FIT_RANKS = (11, 100)
"""Default ranks between which alpha is fitted, as in alpha-ReQ."""
_KEPT = 60  # number of ranks that `Spectrum.record` keeps
_ROUNDING = 1e-12  # share of the largest eigenvalue below which float64 is rounding error


@dataclass(frozen=True)
class PowerLaw:
    """``eigenvalue = scale * rank ** -alpha``, fitted from rank first to rank last.

    Attributes:
        alpha: Decay.
        scale: Value of the line at rank 1.
        first: First rank of the fit.
        last: Last rank of the fit.
        r2: Weighted R^2 of the logarithms.
    """

    alpha: float
    scale: float
    first: int
    last: int
    r2: float


@dataclass(frozen=True)
class Spectrum:
    """Result of `spectrum`.

    Attributes:
        images: Number of rows of the features.
        width: Number of columns of the features.
        eigenvalues: Eigenvalues of their covariance, largest first, (width,), float64.
        power_law: Fit by `power_law`; None if too few eigenvalues are above rounding.
        rankme: Result of `rankme`.
        effective_rank: Result of `effective_rank`.
        std: Result of `unit_std`.
    """

    images: int
    width: int
    eigenvalues: Tensor = field(compare=False, repr=False)
    power_law: PowerLaw | None
    rankme: float
    effective_rank: float
    std: float

    def record(self) -> dict:
        """Return the values as JSON, with eigenvalues at logarithmically spaced ranks."""
        count = max(1, len(self.eigenvalues))
        ranks = sorted({round(count ** (i / (_KEPT - 1))) for i in range(_KEPT)})
        fit = self.power_law
        return {
            "images": self.images,
            "width": self.width,
            "rank": ranks,
            "eigenvalue": [float(f"{self.eigenvalues[rank - 1]:.4g}") for rank in ranks],
            "alpha": fit and round(fit.alpha, 3),
            "alpha_fit": fit
            and {
                "first": fit.first,
                "last": fit.last,
                "scale": float(f"{fit.scale:.4g}"),
                "r2": round(fit.r2, 4),
            },
            "rankme": round(self.rankme, 2),
            "effective_rank": round(self.effective_rank, 2),
            "std": round(self.std, 4),
        }


def spectrum(features: Tensor) -> Spectrum:
    """Compute all measures of this module for one set of features.

    Args:
        features: (N, F), N >= 2. Memory: two float64 copies and two square matrices of the smaller
            side; 400 MB for 10,000 x 2,048.

    Raises:
        ValueError: If there is only one row, or a value is not finite.
    """
    _check(features)
    values = eigenvalues(features)
    usable = values[: len(features) - 1]
    return Spectrum(
        images=len(features),
        width=features.shape[1],
        eigenvalues=values,
        power_law=power_law(usable),
        rankme=rankme(features),
        effective_rank=_effective_rank(values, features),
        std=unit_std(features),
    )


def eigenvalues(features: Tensor) -> Tensor:
    """Compute the eigenvalues of the population covariance of features, largest first.

    Args:
        features: (N, F). Memory: float64 copies and a square matrix of the smaller side.

    Returns:
        (F,), float64, on the CPU.
    """
    x = features.double() - features.double().mean(0)
    values = _gram_eigenvalues(x) / len(x)
    return F.pad(values, (0, features.shape[1] - len(values)))


def power_law(values: Tensor, ranks: tuple[int, int] = FIT_RANKS) -> PowerLaw | None:
    """Fit the decay alpha of an eigenspectrum, by least squares on logarithms.

    Agrawal, Mondal, Ghosh and Richards, "alpha-ReQ: Assessing representation quality in
    self-supervised learning by measuring eigenspectrum decay", NeurIPS 2022. Rank i has weight
    1 / i, as in Stringer et al., Nature 2019, so that every octave of ranks counts the same. The
    last rank is at most half the number of eigenvalues, because the tail depends on the sample
    size; the first rank is then at most a ninth of the last.

    Args:
        values: Eigenvalues, largest first, (F,).
        ranks: First and last rank of the fit.

    Returns:
        The fit; None if fewer than 4 eigenvalues are within the ranks and above rounding.
    """
    usable = int((values > _ROUNDING * values[0]).sum()) if len(values) else 0
    last = min(ranks[1], max(len(values) // 2, 1), usable)
    first = min(ranks[0], max(1, last // 9))
    if last - first < 3:
        return None
    rank = torch.arange(first, last + 1, dtype=torch.float64)
    x, y, weight = rank.log(), values[first - 1 : last].double().log(), 1 / rank
    weight = weight / weight.sum()
    x_mean, y_mean = weight @ x, weight @ y
    slope = weight @ ((x - x_mean) * (y - y_mean)) / (weight @ (x - x_mean).square())
    rest = weight @ (y - y_mean - slope * (x - x_mean)).square()
    total = weight @ (y - y_mean).square()
    scale = float(torch.exp(y_mean - slope * x_mean))
    r2 = float(1 - rest / total) if total > 0 else 1.0
    return PowerLaw(float(-slope), scale, first, last, r2)


def rankme(features: Tensor) -> float:
    """Compute RankMe: exp of the entropy of the singular values, not centered, scaled to sum 1.

    Garrido, Balestriero, Najman and LeCun, "RankMe: Assessing the Downstream Performance of
    Pretrained Self-Supervised Representations by Their Rank", ICML 2023,
    https://arxiv.org/abs/2210.02885, eq. 1, with its epsilon of 1e-7.

    Args:
        features: (N, F). Memory: a float64 copy and a square matrix of the smaller side.

    Returns:
        About 1 (all features lie on a line through zero) to min(N, F).
    """
    values = _gram_eigenvalues(features.double()).sqrt()
    shares = values / values.sum().clamp(min=1e-300) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def effective_rank(features: Tensor) -> float:
    """Compute exp of the entropy of the singular values of centered features, scaled to sum 1.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007. It
    is 1 if all features lie on a line and min(N - 1, F) if they spread evenly.

    Args:
        features: (N, F), N >= 2. Memory: a float64 copy and a square matrix of the smaller side.

    Returns:
        1 to min(N - 1, F); 0 if all features are the same.
    """
    return _effective_rank(eigenvalues(features), features)


def _effective_rank(values: Tensor, features: Tensor) -> float:
    spreads = values.sqrt()
    size = float(features.double().square().sum(1).mean().sqrt())
    spreads = spreads[spreads > 1e-12 * size]  # the rest is rounding of equal features
    if not len(spreads):
        return 0.0
    shares = spreads / spreads.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def unit_std(features: Tensor) -> float:
    """Compute the mean standard deviation of features at unit length, times sqrt(F).

    Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021,
    https://arxiv.org/abs/2011.10566, Fig. 2.

    Args:
        features: (N, F).

    Returns:
        0 (all features point the same way) to 1 (directions are spread evenly).
    """
    x = F.normalize(features.float())
    return float(x.std(0, correction=0).mean() * x.shape[1] ** 0.5)


def _gram_eigenvalues(x: Tensor) -> Tensor:
    """Return the squared singular values of x, largest first, (min(N, F),), on the CPU."""
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    return torch.linalg.eigvalsh(gram.cpu()).clamp(min=0).flip(0)


def _check(features: Tensor) -> None:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(
            f"features (N, F) of 2 images or more are wanted, got {tuple(features.shape)}"
        )
    if not features.isfinite().all():
        raise ValueError(
            "the features are not finite: the model is broken, or images are, whose rows of NaN "
            "are to be left out"
        )

"""How many dimensions features use, without labels."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the singular values of the centred features, scaled to sum 1.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007. It
    is 1 where all features lie on a line and min(N - 1, F) where they spread evenly.

    Args:
        features: (N, F), N >= 2; computed in float64 with the memory of a square matrix of the
            smaller side.

    Returns:
        1 to min(N - 1, F); 0 if all features are the same.
    """
    x = features.double()
    size = x.norm()
    x = x - x.mean(0)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    values = torch.linalg.eigvalsh(gram.cpu()).clamp(min=0).sqrt()
    values = values[values > 1e-12 * size.cpu()]  # what rounding leaves of equal features
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def eigenvalues(features: Tensor) -> Tensor:
    """Eigenvalues of the covariance of the features (population), largest first.

    Args:
        features: (N, F); computed in float64 with the memory of an F x F matrix.

    Returns:
        (F,), float64, on the CPU.
    """
    x = features.double() - features.double().mean(0)
    return torch.linalg.eigvalsh((x.T @ x / len(x)).cpu()).clamp(min=0).flip(0)


def unit_std(features: Tensor) -> float:
    """Mean over dimensions of the standard deviation of the features at unit length, times sqrt(F).

    Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021,
    https://arxiv.org/abs/2011.10566, Fig. 2.

    Args:
        features: (N, F).

    Returns:
        1 where directions are spread evenly, 0 where all features point the same way.
    """
    x = torch.nn.functional.normalize(features.float())
    return float(x.std(0, correction=0).mean() * x.shape[1] ** 0.5)

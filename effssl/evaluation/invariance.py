"""Label-free measures of how features differ between images and between views of an image.

`lidar` and `alignment` take features or projections of V views of the same N images, (V, N, D).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def lidar(views: Tensor, *, delta: float = 1e-4, epsilon: float = 1e-6) -> float:
    """Compute LiDAR: the effective rank of an LDA in which every image is a class of its views.

    Thilak et al., "LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures",
    ICLR 2024, https://arxiv.org/abs/2312.04000, section 4. S_b is the covariance of the image
    means, and S_w that of the views around them, plus delta I. The result is exp of the entropy of
    the eigenvalues of S_w^-1/2 S_b S_w^-1/2, scaled to sum 1, with epsilon added.

    Args:
        views: (V, N, D), V >= 2. The paper uses 50 views of 1,000 images. Memory: a float64 copy
            and three D x D matrices.
        delta: Value added to the diagonal of S_w.
        epsilon: Value added to every scaled eigenvalue.

    Returns:
        About 1 to min(N - 1, D).

    Raises:
        ValueError: If there are fewer than two views or images, or a value is not finite.
    """
    x = _checked(views).double()
    means = x.mean(0)
    between = _covariance(means - means.mean(0))
    within = _covariance((x - means).flatten(0, 1))
    within += delta * torch.eye(len(within), dtype=within.dtype, device=within.device)
    # eigenvalues of S_w^-1/2 S_b S_w^-1/2 are those of L^-1 S_b L^-T with L L^T = S_w
    root = torch.linalg.cholesky(within)
    half = torch.linalg.solve_triangular(root, between, upper=False)
    whitened = torch.linalg.solve_triangular(root, half.T, upper=False)
    values = torch.linalg.eigvalsh(((whitened + whitened.T) / 2).cpu()).clamp(min=0)
    shares = values / values.sum().clamp(min=1e-300) + epsilon
    return float(torch.exp(-(shares * shares.log()).sum()))


def alignment(views: Tensor) -> float:
    """Compute the mean squared distance of two views of an image, with features at unit length.

    Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", ICML 2020, https://arxiv.org/abs/2005.10242, eq. 4, exponent 2,
    over all pairs of the V views.

    Args:
        views: (V, N, D), V >= 2.

    Returns:
        0 (views do not matter) to 4; random directions give 2.

    Raises:
        ValueError: As for `lidar`.
    """
    x = F.normalize(_checked(views).double(), dim=-1)
    count = len(x)
    # the V (V - 1) / 2 pairs of an image have the sum V sum |x_v|^2 - |sum x_v|^2
    pairs = count * x.square().sum((0, 2)) - x.sum(0).square().sum(1)
    return float(pairs.clamp(min=0).mean() / (count * (count - 1) / 2))


def uniformity(features: Tensor, *, t: float = 2.0) -> float:
    """Compute log of the mean of exp(-t |x - y|^2) over pairs of images, at unit length.

    Wang and Isola, eq. 5, with t of 2; see `alignment`.

    Args:
        features: Features of one view of every image, (N, D), N >= 2. Memory: N x N float32.
        t: Scale of the kernel.

    Returns:
        0 (all features point the same way) to about -4 (directions are spread evenly over many
        dimensions).

    Raises:
        ValueError: As for `lidar`.
    """
    x = F.normalize(_checked(features.unsqueeze(0), least_views=1)[0].float())
    return float(F.pdist(x).square().mul(-t).exp().mean().log())


def _covariance(x: Tensor) -> Tensor:
    return x.T @ x / len(x)


def _checked(views: Tensor, least_views: int = 2) -> Tensor:
    if views.ndim != 3 or len(views) < least_views or views.shape[1] < 2:
        raise ValueError(
            f"(V, N, D) of {least_views} or more views of 2 or more images is wanted, got "
            f"{tuple(views.shape)}"
        )
    if not views.isfinite().all():
        raise ValueError(
            "the features are not finite: the model is broken, or images are, whose rows of NaN "
            "are to be left out"
        )
    return views

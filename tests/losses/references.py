"""The losses typed again from papers and authors' code, slow and plain, on one process."""

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor


def off_diagonal(c: Tensor) -> Tensor:
    return c[~torch.eye(len(c), dtype=torch.bool)]


def standardized(z: Tensor) -> Tensor:
    return F.batch_norm(z, None, None, training=True, eps=1e-5)


def barlow_twins_of_two(z1: Tensor, z2: Tensor, lambd: float) -> Tensor:
    """facebookresearch/barlowtwins main.py@8e8d284."""
    c = standardized(z1).T @ standardized(z2) / len(z1)
    return (c.diagonal() - 1).square().sum() + lambd * off_diagonal(c).square().sum()


def with_global(z: Tensor, global_views: int | None) -> list[tuple[Tensor, Tensor]]:
    """Pairs of views, without those of two that are not among the first, global ones."""
    found = [
        (z[a], z[b])
        for a, b in combinations(range(len(z)), 2)
        if global_views is None or a < global_views or b < global_views
    ]
    return found


def barlow_twins_pairs(z: Tensor, lambd: float, global_views: int | None = None) -> Tensor:
    pairs = [barlow_twins_of_two(a, b, lambd) for a, b in with_global(z, global_views)]
    return torch.stack(pairs).mean()


def barlow_twins_mean(z: Tensor, lambd: float, global_views: int | None = None) -> Tensor:
    """Each view against the mean of those that count with it; redundancy of the means."""
    views, images, _ = z.shape
    leading = views if global_views is None else global_views
    z = torch.stack([standardized(view) for view in z])
    total = 0
    for v in range(views):
        others = [z[b] for b in range(views) if b != v and (v < leading or b < leading)]
        others = torch.stack(others).mean(0)
        total = total + (1 - (z[v] * others).mean(0)).square().sum() / views
    c = z[:leading].mean(0).T @ z.mean(0) / images
    return total + lambd * off_diagonal(c).square().sum()


def authors_mean_view_terms(z: Tensor) -> tuple[Tensor, Tensor]:
    """kumarkrishna/fastssl@96dfa37b, each view against the mean of all views, itself included.

    Standardized per view rather than jointly.
    """
    views, images, _ = z.shape
    z = torch.stack([standardized(view) for view in z])
    c = z.mean(0).T @ z.mean(0) / images
    on = sum(((view * z.mean(0)).mean(0) - 1).square().sum() for view in z) / views
    return on, off_diagonal(c).square().sum()


def vicreg_of_two(x: Tensor, y: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """facebookresearch/vicreg main_vicreg.py."""
    images, dim = x.shape
    repr_loss = F.mse_loss(x, y)
    x, y = x - x.mean(0), y - y.mean(0)
    std_x, std_y = torch.sqrt(x.var(0) + 0.0001), torch.sqrt(y.var(0) + 0.0001)
    std_loss = F.relu(1 - std_x).mean() / 2 + F.relu(1 - std_y).mean() / 2
    cov_x, cov_y = x.T @ x / (images - 1), y.T @ y / (images - 1)
    cov_loss = off_diagonal(cov_x).square().sum() / dim + off_diagonal(cov_y).square().sum() / dim
    return weights[0] * repr_loss + weights[1] * std_loss + weights[2] * cov_loss


def vicreg_pairs(z: Tensor, weights: tuple[float, float, float]) -> Tensor:
    return torch.stack([vicreg_of_two(a, b, weights) for a, b in combinations(z, 2)]).mean()


def vicregl_global_loss(
    z: Tensor, weights: tuple[float, float, float], global_views: int, *, each_once: bool = True
) -> Tensor:
    """facebookresearch/VICRegL main_vicregl.py@803ae4c, global_loss, on one process.

    Its pairs of two global views come up twice, unless each counts once.
    """
    pairs = [(i, j) for i in range(global_views) for j in range(len(z)) if i != j]
    if each_once:
        pairs = sorted({tuple(sorted(pair)) for pair in pairs})
    inv_loss = sum(F.mse_loss(z[i], z[j]) for i, j in pairs) / len(pairs)
    var_loss = cov_loss = 0.0
    for x in z:
        x = x - x.mean(dim=0)
        std_x = torch.sqrt(x.var(dim=0) + 0.0001)
        var_loss = var_loss + torch.mean(torch.relu(1.0 - std_x)) / len(z)
        cov_x = (x.T @ x) / (x.size(0) - 1)
        cov_loss = cov_loss + off_diagonal(cov_x).square().sum() / x.size(1) / len(z)
    # the covariance term of VICReg's own code is the sum of those of the two views
    return weights[0] * inv_loss + weights[1] * var_loss + 2 * weights[2] * cov_loss


def spectral(z: Tensor, beta: float, global_views: int | None = None) -> Tensor:
    views, images, dim = z.shape
    z = z - z.reshape(-1, dim).mean(0)
    s = sum(view.T @ view for view in z) / (views * images)
    if global_views is None:
        distance = sum((view - z.mean(0)).square().sum() for view in z)
        invariance = distance / (images * (views - 1))
    else:
        pairs = with_global(z, global_views)
        distance = sum((a - b).square().sum() for a, b in pairs) / len(pairs)
        invariance = distance / (2 * images)
    return invariance + beta * (s - torch.eye(dim, dtype=z.dtype)).square().sum()


def value_and_gradient(loss, z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.detach().clone().requires_grad_()
    value = loss(z)
    (gradient,) = torch.autograd.grad(value, z)
    return value.detach(), gradient


def relative_difference(x: Tensor, y: Tensor) -> float:
    return ((x - y).norm() / y.norm()).item()


def views_of_images(views: int, images: int, dim: int, *, seed: int = 0) -> Tensor:
    """Correlated views with correlated, shifted and scaled dimensions, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    z = normal(images, dim) + 0.5 * normal(images, 1) + 0.7 * normal(views, images, dim)
    return z * (0.3 + normal(dim).abs()) + normal(views, 1, dim)

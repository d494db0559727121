"""The losses typed again from papers and authors' code, slow and plain, on one process."""

import math
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


def coding_rate(z: Tensor, eps: float, invariance: float, global_views: int | None = None):
    """tsb0601/EMP-SSL@8fc3758, loss.py and main.py, and a constant that makes it 0 at best."""
    rank = min(z.shape[1:])
    constant = rank / 2 * math.log(1 + z.shape[2] / (rank * eps)) + invariance
    return coding_rate_of_authors(z, eps, invariance, global_views) + constant


def coding_rate_of_authors(
    z: Tensor, eps: float, invariance: float, global_views: int | None = None
):
    """tsb0601/EMP-SSL@8fc3758, loss.py and main.py, whose network scales the rows."""
    z = F.normalize(z, dim=-1)
    loss_tcr = 0
    for w in z.mT:
        p, m = w.shape
        scalar = p / (m * eps)
        logdet = torch.logdet(torch.eye(p, dtype=w.dtype) + scalar * w.matmul(w.T))
        loss_tcr = loss_tcr - logdet / 2.0
    z_avg = z[:global_views].mean(dim=0)
    z_sim = sum(F.cosine_similarity(view, z_avg, dim=1).mean() for view in z)
    return invariance * -z_sim / len(z) + loss_tcr / len(z)


def whitened(x: Tensor, eps: float) -> Tensor:
    """htdt/self-supervised@d9662c8, methods/whitening.py, but for the relative ridge."""
    xn = x - x.mean(0)
    f_cov = xn.T @ xn / (len(x) - 1)
    f_cov = f_cov + eps * f_cov.diagonal().mean() * torch.eye(x.shape[1], dtype=x.dtype)
    return xn @ torch.inverse(torch.linalg.cholesky(f_cov)).T


def wmse(z: Tensor, parts: list[Tensor], eps: float, global_views: int | None = None) -> Tensor:
    """htdt/self-supervised@d9662c8, methods/w_mse.py and norm_mse.py; parts are sub-batches."""
    out = torch.empty_like(z)
    for idx in parts:
        for i in range(len(z)):
            out[i, idx] = whitened(z[i, idx], eps)
    losses = [
        2 - 2 * (F.normalize(x0) * F.normalize(x1)).sum(dim=-1).mean()
        for x0, x1 in with_global(out, global_views)
    ]
    return torch.stack(losses).mean()


def sub_batches(z: Tensor, size: int, seed: int) -> list[Tensor]:
    """A random cut of the images, sorted by their sums, into nearly equal parts."""
    images = z.shape[1]
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    order = z.detach().double().sum((0, 2)).argsort()[order]
    number = max(1, images // size)
    return [part.clone() for part in order.tensor_split(number)]


def simclr(
    z: Tensor, temperature: float, prior: float = 0.0, global_views: int | None = None
) -> Tensor:
    """Every ordered pair of views in turn; Chuang et al., Eq. 8, with all partners of a view."""
    views, images, _ = z.shape
    leading = views if global_views is None else global_views
    z = z / z.norm(dim=-1, keepdim=True)
    terms = []
    for v in range(views):
        partners = [w for w in range(views) if w != v and (v < leading or w < leading)]
        for n in range(images):
            others = [z[u, m] for u in range(views) for m in range(images) if m != n]
            negatives = torch.exp(torch.stack(others) @ z[v, n] / temperature)
            positives = [torch.exp(z[v, n] @ z[w, n] / temperature) for w in partners]
            total = negatives.sum()
            if prior:
                mean = (negatives.mean() - prior * torch.stack(positives).mean()) / (1 - prior)
                total = len(others) * mean.clamp(min=math.exp(-1 / temperature))
            terms += [-torch.log(positive / (positive + total)) for positive in positives]
    return torch.stack(terms).mean()


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """google-research/simclr objective.py: cross entropy of each row against all others."""
    z1, z2 = (z / z.norm(dim=1, keepdim=True) for z in (z1, z2))
    masks = 1e9 * torch.eye(len(z1), dtype=z1.dtype)
    labels = torch.arange(len(z1))
    logits_a = torch.cat([z1 @ z2.T, z1 @ z1.T - masks], 1) / temperature
    logits_b = torch.cat([z2 @ z1.T, z2 @ z2.T - masks], 1) / temperature
    return (F.cross_entropy(logits_a, labels) + F.cross_entropy(logits_b, labels)) / 2


def debiased_of_two(out_1: Tensor, out_2: Tensor, temperature: float, tau_plus: float) -> Tensor:
    """chingyaoc/DCL main.py, for rows of length 1."""
    batch_size = len(out_1)
    out = torch.cat([out_1, out_2], dim=0)
    neg = torch.exp(out @ out.T / temperature)
    mask = ~torch.eye(batch_size, dtype=torch.bool).repeat(2, 2)
    neg = neg.masked_select(mask).view(2 * batch_size, -1)
    pos = torch.exp(torch.sum(out_1 * out_2, dim=-1) / temperature)
    pos = torch.cat([pos, pos], dim=0)
    count = batch_size * 2 - 2
    estimate = (-tau_plus * count * pos + neg.sum(dim=-1)) / (1 - tau_plus)
    estimate = torch.clamp(estimate, min=count * math.e ** (-1 / temperature))
    return (-torch.log(pos / (pos + estimate))).mean()


def random_directions(dim: int, number: int, seed: int) -> Tensor:
    """Unit vectors, (D, M), as the loss draws them."""
    a = torch.randn(dim, number, generator=torch.Generator().manual_seed(seed))
    return F.normalize(a, dim=0).double()


def sigreg(z: Tensor, lambd: float, a: Tensor, global_views: int | None = None) -> Tensor:
    """Balestriero and LeCun, Algorithms 1 and 2: 17 knots from -5 to 5, cosines and sines."""
    views, images, _ = z.shape
    t = torch.linspace(-5, 5, 17, dtype=z.dtype)
    normal = torch.exp(-0.5 * t**2)
    centers = z[:global_views].mean(0)
    invariance = statistic = 0
    for view in z:
        invariance = invariance + (centers - view).square().mean() / views
        x_t = (view @ a).unsqueeze(2) * t  # (N, M, T)
        real, imaginary = torch.cos(x_t).mean(0), torch.sin(x_t).mean(0)
        errors = ((real - normal) ** 2 + imaginary**2) * normal
        statistic = statistic + images * torch.trapezoid(errors, t, dim=1).mean() / views
    return (1 - lambd) * invariance + lambd * statistic

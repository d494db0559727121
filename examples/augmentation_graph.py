"""See what the losses learn, on a graph of augmentations small enough to be solved exactly.

    python examples/augmentation_graph.py                         # tables; a minute on one core
    python examples/augmentation_graph.py --figures docs/figures  # and those of docs/theory.md

40 points stand for all pictures that there are. Each of 40 images has 5 of them as augmentations,
its nearest ones, so images of a class share many. T_M averages a function over the augmentations of
an image. Its eigenfunctions with large eigenvalues change little under augmentation: the first tell
the classes apart. The features are free numbers, one row a point, so that all there is to see is
the loss. Printed and drawn, beside what theory says:

1. the spectrum of T_M;
2. gradient descent: dominant eigenfunctions first, and the weaker ones sooner with a larger beta;
3. how many eigenfunctions are used, by the weight of the loss and the width D of the projector;
4. how far the spectrum is off that V views of each image give, for V from 2 to 16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import torch
import tyro
from torch import Tensor

from effssl import losses

DIMS = (4, 8, 16)
WEIGHTS = {
    "spectral": (0.02, 0.05, 0.11, 0.17, 0.24, 0.3, 0.5),
    "bt": (0.0035, 0.008, 0.016, 0.045, 0.1, 0.3, 1.0),
    "vicreg": (0.0035, 0.01, 0.022, 0.045, 0.1, 0.22, 1.0),
}
"""Strengths of orthogonality: beta, lambd, VICReg's weight of covariance over that of the rest."""
VIEWS = (2, 4, 8, 16)
STEPS, DRAWS = 500, 300


class Graph:
    """A finite augmentation graph, in float64.

    Functions on its points are columns g = sqrt(rho) f, so that g^T g is the mean of f^2 over the
    data. Attributes: the place of the points (P, 2), the augmentations of the images (N, A).
    """

    def __init__(self, places: Tensor, augmentations: Tensor) -> None:
        self.places, self.augmentations = places, augmentations
        p = torch.nn.functional.one_hot(augmentations, len(places)).double().mean(1)
        self.p = p  # p(point | image), (N, P)
        self.rho = p.mean(0)  # p(point)
        self.root = self.rho.sqrt()[:, None]
        self.operator = p.T @ p / len(p) / (self.root * self.root.T)  # T_M, symmetric

    @classmethod
    def of_classes(cls) -> Graph:
        """Four classes of ten images, spread about the corners of a square."""
        generator = torch.Generator().manual_seed(0)
        corners = 2.2 * torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]])
        spread = torch.randn(4, 10, 2, generator=generator)
        places = (corners[:, None] + spread).flatten(0, 1).double()
        return cls(places, torch.cdist(places, places).topk(5, largest=False).indices)

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues from large to small, and eigenfunctions (P, P - 1), without the constant."""
        values, functions = torch.linalg.eigh(self.operator)
        return values.flip(0)[1:], functions.flip(1)[:, 1:]

    def all_views(self, g: Tensor) -> Tensor:
        """Give the features (2, N A^2, D) of all pairs of augmentations: what a loss expects."""
        f = g / self.root
        size = self.augmentations.shape[1]
        first = self.augmentations.repeat_interleave(size, 1)
        return torch.stack([f[first.flatten()], f[self.augmentations.repeat(1, size).flatten()]])

    def centered(self, g: Tensor) -> Tensor:
        """Remove the constant function, which no loss sees."""
        return g - self.root * (self.root.T @ g)

    def start(self, dim: int, size: float) -> Tensor:
        """Draw features, the same for every loss, with second moments of size^2."""
        generator = torch.Generator().manual_seed(1)
        g = torch.randn(len(self.places), dim, generator=generator, dtype=torch.float64)
        return self.centered(g) * size / len(g) ** 0.5


def make_loss(name: str, weight: float) -> Callable[[Tensor], Tensor]:
    """Bind a loss of effssl to its strength of orthogonality."""
    if name == "vicreg":
        return partial(losses.vicreg, invariance=1 / weight, variance=1 / weight)
    if name == "bt":
        return partial(losses.barlow_twins, lambd=weight)
    return partial(losses.spectral, beta=weight)


def descend(graph: Graph, name: str, weight: float, g: Tensor, steps: int, lr: float) -> list:
    """Plain gradient descent: the features g before each step and after the last."""
    loss, path = make_loss(name, weight), [g]
    for _ in range(steps):
        g = g.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(graph.all_views(g)), g)
        g = g.detach() - lr * gradient
        path.append(graph.centered(g))
    return path


def minimize(graph: Graph, name: str, weight: float, dim: int) -> Tensor:
    """Go on to the minimum, which plain descent nears slowly: the features there."""
    loss, g = make_loss(name, weight), graph.start(dim, 0.1).requires_grad_()
    smooth = name != "vicreg"  # at the kink of its hinge L-BFGS gets stuck
    if smooth:
        optimizer = torch.optim.LBFGS([g], max_iter=STEPS // 2, line_search_fn="strong_wolfe")
        optimizer.param_groups[0].update(tolerance_grad=1e-10, tolerance_change=0)
    else:
        optimizer = torch.optim.Adam([g], lr=0.02)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(graph.all_views(g))
        value.backward()
        return value

    for step in range(1 if smooth else STEPS):
        optimizer.param_groups[0]["lr"] = 1 if smooth else 0.02 * (1 - step / STEPS)
        optimizer.step(closure)
    return graph.centered(g.detach())


def span(g: Tensor, share: float = 0.01) -> Tensor:
    """Return an orthonormal basis of the directions above a share of the largest moment."""
    left, singular, _ = torch.linalg.svd(g, full_matrices=False)
    return left[:, singular.square() > share * singular[0].square()]


def overlap(g: Tensor, top: Tensor, share: float = 0.01) -> float:
    """Mean squared cosine of the angles between the span of g and that of functions top (P, k)."""
    return float((span(g, share).T @ top).square().sum() / top.shape[1])


def strengths(graph: Graph, g: Tensor) -> Tensor:
    """Share of each eigenfunction u in the second moments of the features, u^T g g^T u."""
    return (graph.spectrum[1].T @ g).square().sum(1)


def flow(graph: Graph, g: Tensor, beta: float, time: float) -> Tensor:
    """Solve the gradient flow of `spectral`, what descent tends to for small steps, for a time.

    With A = 4 beta - 2 (1 - T_M), d(g g^T)/dt = A g g^T + g g^T A - 8 beta (g g^T)^2, a Riccati
    equation. Alone, eigenfunction i grows at the rate 8 beta - 4 (1 - lambda_i), up to its share
    1 - (1 - lambda_i) / (2 beta): dominant first, but nearly all at once if beta is large.
    """
    values, functions = graph.spectrum
    rates, start = 4 * beta - 2 * (1 - values), functions.T @ g
    integral = torch.special.expm1(2 * rates * time) / (2 * rates)
    limit = torch.eye(g.shape[1]) + 8 * beta * (start.T * integral) @ start
    grown = functions @ ((rates * time).exp()[:, None] * start)
    factor = torch.linalg.cholesky(limit)
    return torch.linalg.solve_triangular(factor, grown.T, upper=False).T


def thresholds(name: str, values: Tensor, dim: int) -> list[float]:
    """Return the weight above which each of the first D eigenfunctions is used.

    At the minimum g g^T has the eigenfunctions of T_M, with eigenvalues s_i >= 0. BT and VICReg do
    best if the D dimensions are rotated so that all have the same second moment v, which is always
    possible; it is 1 for BT, which standardizes. Up to constants and factors the losses are then

        spectral: sum (1 - l_i) s_i + beta sum (s_i - 1)^2
        bt:       D (1 - c)^2 + lambd (sum l_i^2 s_i^2 - D c^2), c = sum l_i s_i / D, sum s_i = D
        vicreg:   w (sum (1 - l_i) s_i + D (1 - sqrt(v))_+ / 2) + sum s_i^2 - D v^2, sum s_i = D v

    and eigenfunction k is used if a small s_k lowers the loss. In `spectral` that does not depend
    on D. In the others the used ones share the sum of s_i, D v, so that the lambd that is needed
    falls as 1/D, and the w of VICReg rises as D; the weight here is 1/w.
    """
    found = []
    for k in range(min(dim, int((values > 1e-9).sum()))):
        upper, gaps = values[:k], values[:k] - values[k]
        if name == "spectral":
            found.append((1 - values[k]) / 2)
        elif name == "bt":
            found.append((gaps * (1 - upper) / upper**2).sum() / (dim - (gaps / upper).sum()))
        else:  # v is 1 unless the hinge, of slope 1/4 there, is weaker than the invariance
            slope = (1 - values[k] - gaps.sum() / dim).clamp(min=0.25)
            found.append(gaps.sum() / (2 * dim) * 16 * slope**2)
    return [float(value) for value in found]


def draw_views(graph: Graph, views: int, epochs: int, generator: torch.Generator) -> Tensor:
    """Draw V augmentations of each image in each epoch, points of shape (V, epochs N)."""
    images, size = graph.augmentations.shape
    table = graph.augmentations.repeat(epochs, 1)
    return table.gather(1, torch.randint(size, (images * epochs, views), generator=generator)).T


def estimate(graph: Graph, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Spectrum of the operator that drawn views (V, M) give: all that `spectral` sees of T_M.

    The joint distribution of two views is taken from all pairs of different views of an image.
    """
    counts = torch.zeros(drawn.shape[1], len(graph.places), dtype=torch.float64)  # (M, P)
    counts.scatter_add_(1, drawn.T, torch.ones(drawn.T.shape, dtype=torch.float64))
    pairs = counts.T @ counts - counts.sum(0).diag()
    root = (counts.sum(0) / counts.sum())[:, None].sqrt()
    joint = pairs / pairs.sum()
    values, functions = torch.linalg.eigh(joint / (root * root.T).clamp(min=1e-12))
    return values.flip(0)[1:], graph.root * (functions / root.clamp(min=1e-6)).flip(1)[:, 1:]


def variance(graph: Graph, i: int, j: int, views: int, epochs: int) -> float:
    """Variance of the error of T_M between eigenfunctions i and j, relative to l_i.

    It is a mean over pairs of views of h(x, y), a U-statistic. With z1 the variance of the mean of
    h over y, z2 that of h, for the views of one image,

        2 / (V (V - 1)) * (2 (V - 2) z1 + z2) / M    for M images:

    between 1 / (V (V - 1)) and, for many views, 1/V.
    """
    (values, functions), p = graph.spectrum, graph.p
    a, b = (functions / graph.root)[:, [i, j]].T
    h = (a[:, None] * b + b[:, None] * a) / 2 - values[i] * ((a * b)[:, None] + a * b) / 2
    inner = p @ h
    mean = (inner * p).sum(1)
    z1 = (p * inner.square()).sum(1) - mean.square()
    z2 = ((p @ h.square()) * p).sum(1) - mean.square()
    of_image = 2 / (views * (views - 1)) * (2 * (views - 2) * z1 + z2)
    return float(of_image.mean() / (len(p) * epochs))


def learn(graph: Graph) -> dict[str, Tensor]:
    """Follow gradient descent: curves of shape (steps + 1, functions), by what they show."""
    top = graph.spectrum[1][:, :4]
    curves = {}
    for beta, steps in ((0.25, 2 * STEPS), (1.0, STEPS // 2)):
        path = descend(graph, "spectral", beta, graph.start(8, 0.01), steps, lr=0.02)
        exact = [path[0]]
        for _ in range(steps):
            exact.append(flow(graph, exact[-1], beta, 0.02))
        curves[f"spectral, beta {beta:g}"] = torch.stack([strengths(graph, g)[:6] for g in path])
        curves[f"flow, beta {beta:g}"] = torch.stack([strengths(graph, g)[:6] for g in exact])
    for name, weight, lr in (("spectral", 1.0, 0.05), ("bt", 0.3, 0.005), ("vicreg", 0.25, 0.02)):
        path = descend(graph, name, weight, graph.start(4, 0.1), 2 * STEPS, lr)
        found = [(span(g, 0).T @ top).square().sum(0) for g in path]
        curves[name] = torch.stack(found)  # R^2 of each function in a linear fit on the features
    return curves


def count_used(graph: Graph) -> list[tuple[str, int, float, int, int, float]]:
    """List loss, D, weight, eigenfunctions used, number that theory gives, overlap with these."""
    values, functions = graph.spectrum
    rows = []
    for name, weights in WEIGHTS.items():
        for dim in DIMS:
            limits = thresholds(name, values, dim)
            for weight in weights:
                g = minimize(graph, name, weight, dim)
                used = span(g).shape[1]
                expected = sum(limit < weight for limit in limits)
                share = overlap(g, functions[:, :used])
                rows.append((name, dim, weight, used, expected, share))
    return rows


def measure_errors(graph: Graph) -> list[tuple[str, int, float, float, float, float]]:
    """List series, V, error of 5 eigenvalues, its law, 1 - overlap of 3 eigenfunctions, its law.

    The error is the root of the mean square over eigenvalues and draws. The laws hold for small
    errors. By perturbation, eigenfunction i of the estimate turns to j by E_ij / (l_i - l_j).
    """
    values, functions = graph.spectrum
    generator = torch.Generator().manual_seed(0)
    rows = []
    for series, of_epochs in (("1 epoch", 1), ("16 epochs", 16), ("32 / V epochs", None)):
        for views in VIEWS:
            epochs = of_epochs or 32 // views  # None: as many views in all
            squares, missed = [], []
            for _ in range(DRAWS):
                found, g = estimate(graph, draw_views(graph, views, epochs, generator))
                squares.append((found[:5] - values[:5]).square().mean())
                missed.append(1 - overlap(g[:, :3], functions[:, :3], 0))
            law = sum(variance(graph, i, i, views, epochs) for i in range(5)) / 5
            turned = sum(
                variance(graph, i, j, views, epochs) / float(values[i] - values[j]) ** 2
                for i in range(3)
                for j in range(3, len(values))
            )
            error = float(torch.stack(squares).mean())
            rows.append((series, views, error**0.5, law**0.5, sum(missed) / DRAWS, turned / 3))
    return rows


def main(figures: Path | None = None) -> None:
    """Print what gradient descent learns on the graph, beside theory.

    Args:
        figures: Folder for the figures; none are drawn if it is left out.
    """
    torch.set_num_threads(1)  # more cost more than they gain on so few numbers
    graph = Graph.of_classes()
    print("eigenvalues of T_M:", " ".join(f"{v:.3f}" for v in graph.spectrum[0][:8]))
    curves = learn(graph)
    print("\nstep at which an eigenfunction has half of its share, dominant first (theory)")
    for beta in ("0.25", "1"):
        found, exact = (
            (curve > curve[-1] / 2).float().argmax(0)[:4].tolist()
            for curve in (curves[f"spectral, beta {beta}"], curves[f"flow, beta {beta}"])
        )
        steps = "  ".join(f"{a:3} ({b:3})" for a, b in zip(found, exact, strict=True))
        print(f"  spectral, beta {beta:4}  {steps}")
    for name in WEIGHTS:
        share = curves[name].mean(1)
        print(f"  {name}, 4 wide: overlap with the top 4 {share[0]:.2f}, then {share[-1]:.4f}")
    print("\neigenfunctions used, by weight and width D (theory), and overlap with the top ones")
    rows = count_used(graph)
    for name, dim, weight, used, expected, share in rows:
        print(f"  {name:8}  D {dim:2}  weight {weight:<6g}  {used:2} ({expected:2})  {share:.4f}")
    print("\nerror of 5 eigenvalues (law), and 1 - overlap of 3 eigenfunctions (law), by views")
    errors = measure_errors(graph)
    for series, views, error, law, missed, turned in errors:
        print(f"  {series:13} {views:2}  {error:.4f} ({law:.4f})  {missed:.4f} ({turned:.4f})")
    if figures:
        from augmentation_graph_figures import draw

        draw(figures, graph, curves, rows, errors)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

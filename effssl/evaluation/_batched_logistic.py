"""Logistic regression on many small sets at once: one L-BFGS, with a step for each set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

# largest entry of the gradient of the mean objective of an image at the end: a hundredth of what
# scikit-learn leaves by default
_TOLERANCE = 1e-6
_STEPS = 500
_HISTORY = 10
_MANY = 10_000_000  # values of features from which several threads pay on any machine
_HALVINGS = 30
_ARMIJO = 1e-4

_Function = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


def fit_logistic(features: Tensor, labels: Tensor, classes: int, c: float) -> tuple[Tensor, Tensor]:
    """Fit a multinomial logistic regression to each of several sets of images.

    Each minimizes c * (sum of cross-entropies) + ||W||^2 / 2, as scikit-learn does; the bias has no
    penalty. The minimum lies in the span of the features: sets of fewer images than features are
    fitted in as many coordinates as they have images.

    Args:
        features: (E, S, F).
        labels: Classes from 0, (S,), the same in every set.
        classes: Number of classes.
        c: Weight of the cross-entropies.

    Returns:
        Weight (E, classes, F) and bias (E, classes), of the type of the features.
    """
    # float64, because a line search compares sums that differ by less than float32 resolves
    rows, factor = features.double(), None
    count, images, width = rows.shape
    if width > images:
        gram = rows @ rows.mT
        diagonal = gram.diagonal(dim1=1, dim2=2)
        # two images may be the same
        diagonal += 1e-10 * diagonal.mean(1, keepdim=True).clamp(min=1e-10)
        factor = torch.linalg.cholesky(gram)
    inside = rows if factor is None else factor
    target = F.one_hot(labels, classes).T.to(inside)

    def loss_and_gradient(point: Tensor, sets: Tensor | None) -> tuple[Tensor, Tensor]:
        some = inside if sets is None else inside[sets]
        weight, bias = _unpacked(point, classes)
        logits = weight @ some.mT + bias.unsqueeze(2)  # (E, classes, S) is the faster order
        log_sum = logits.logsumexp(1, keepdim=True)
        entropies = log_sum.sum((1, 2)) - (logits * target).sum((1, 2))
        residual = (logits - log_sum).exp_().sub_(target).mul_(c)
        gradient = torch.cat([residual @ some + weight, residual.sum(2, keepdim=True)], 2)
        return c * entropies + weight.square().sum((1, 2)) / 2, gradient.flatten(1)

    start = inside.new_zeros(count, classes * (inside.shape[2] + 1))
    with _one_thread(inside):
        point = _minimize(loss_and_gradient, start, _TOLERANCE * c * images)
    weight, bias = _unpacked(point, classes)
    if factor is not None:  # rows = factor @ an orthonormal basis
        weight = torch.linalg.solve_triangular(factor, weight, upper=False, left=False) @ rows
    return weight.to(features), bias.to(features)


@contextmanager
def _one_thread(features: Tensor) -> Iterator[None]:
    """Compute with one thread on a CPU where the features are few.

    A step is many short operations. On busy cores their threads would wait for each other far
    longer than they compute.
    """
    threads = torch.get_num_threads()
    if features.device.type == "cpu" and features.numel() < _MANY:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _unpacked(point: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return weight (E, classes, R) and bias (E, classes) of a point (E, classes * (R + 1))."""
    both = point.unflatten(1, (classes, -1))
    return both[..., :-1], both[..., -1]


def _minimize(function: _Function, point: Tensor, tolerance: float) -> Tensor:
    """Return the minimum of a convex function for each row of a point, (E, P), by L-BFGS.

    Args:
        function: Function from points and the rows that they are of, all if None, to values, (E,),
            and gradients, (E, P).
        point: Where to start.
        tolerance: Largest entry of a gradient at the end.
    """
    value, gradient = function(point, None)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(_STEPS):
        going = gradient.abs().amax(1) > tolerance
        if not going.any():
            break
        direction = _direction(gradient, pairs) * going.unsqueeze(1)
        if not pairs:
            direction /= gradient.norm(dim=1, keepdim=True).clamp(min=1.0)
        moved, new_value, new_gradient = _search(function, point, value, gradient, direction)
        change, turn = moved - point, new_gradient - gradient
        curvature = (change * turn).sum(1)
        # a row that is done does not move, and its pairs count for nothing
        inverse = torch.where(curvature > 0, 1 / curvature, 0.0)
        pairs = [*pairs[1 - _HISTORY :], (change, turn, inverse)]
        point, value, gradient = moved, new_value, new_gradient
    return point


def _search(
    function: _Function, point: Tensor, value: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Go along a direction, half as far in rows that descend too little; return what is there."""
    least = _ARMIJO * (gradient * direction).sum(1)
    slack = 1e-13 * value.abs()  # rounding of the values
    moved = point + direction
    new_value, new_gradient = function(moved, None)
    step = 1.0
    for _ in range(_HALVINGS):
        short = (new_value > value + step * least + slack).nonzero()[:, 0]
        if not len(short):
            break
        step /= 2
        moved[short] = point[short] + step * direction[short]
        new_value[short], new_gradient[short] = function(moved[short], short)
    return moved, new_value, new_gradient


def _direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Return the direction of descent of every row by the two loops of L-BFGS."""
    found, shares = -gradient, []
    for change, turn, inverse in reversed(pairs):
        share = inverse * (change * found).sum(1)
        found = found - share.unsqueeze(1) * turn
        shares.append(share)
    if pairs:
        _, turn, inverse = pairs[-1]
        length = inverse * turn.square().sum(1)
        found = found / torch.where(length > 0, length, 1.0).unsqueeze(1)
    for (change, turn, inverse), share in zip(pairs, reversed(shares), strict=True):
        found = found + (share - inverse * (turn * found).sum(1)).unsqueeze(1) * change
    return found

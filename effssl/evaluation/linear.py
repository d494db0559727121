"""Linear probe: multinomial logistic regression on frozen features."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from effssl.evaluation.accuracy import Accuracy, check_labeled, topk_classes
from effssl.seeding import seeded_generator

L2_GRID = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)
_ROWS = 4096  # rows that estimate the covariance for preconditioning
_PATIENCE = 2  # values of the grid without improvement before the search stops


@dataclass(frozen=True)
class LinearProbe:
    """Result of `linear_probe`.

    Attributes:
        accuracy: Accuracy on the test images.
        held_out_top1: Top-1 in percent on the held-out part of train, on which l2 was chosen; None
            if l2 was given.
        l2: Weight of the penalty, chosen or given.
        weight: Weight of the classifier for unscaled features, (classes, F).
        bias: Bias of the classifier, (classes,).
    """

    accuracy: Accuracy
    held_out_top1: float | None
    l2: float
    weight: Tensor = field(compare=False, repr=False)
    bias: Tensor = field(compare=False, repr=False)


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    l2: float | None = None,
    held_out: float = 0.2,
    seed: int = 0,
) -> LinearProbe:
    """Fit a linear classifier to frozen features and test it once.

    Features are standardized with the mean and standard deviation of train. The classifier
    minimizes cross-entropy + l2 / 2 ||W||^2 by L-BFGS, on the device of the features. If l2 is None
    it is the value of `L2_GRID` with the best accuracy on a random held-out part of train; the
    classifier is then fitted to all of train.

    Args:
        train_features: (N, F).
        train_labels: Classes from 0, (N,).
        test_features: (M, F).
        test_labels: (M,).
        l2: Weight of the penalty, 1 / (N C) in scikit-learn's terms; chosen if None.
        held_out: Share of train on which l2 is chosen.
        seed: Seed of the choice of that part.

    Raises:
        ValueError: If train and test do not fit together (`check_labeled`).
    """
    classes = check_labeled(train_features, train_labels, test_features, test_labels)
    mean, std = train_features.mean(0), train_features.std(0)
    # a feature that varies only by rounding carries no information
    dead = std <= 1e-5 * train_features.abs().amax(0)
    scale = torch.where(dead, 0.0, 1 / std)
    train, test = (train_features - mean) * scale, (test_features - mean) * scale
    start = train.new_zeros(classes, train.shape[1]), train.new_zeros(classes)
    some = train[:: max(1, len(train) // _ROWS)]
    covariance = some.T @ some / len(some)
    best_top1 = None
    if l2 is None:
        order = torch.randperm(len(train), generator=seeded_generator(seed, "linear probe"))
        count = min(max(1, round(held_out * len(train))), len(train) - 1)
        held, fit = order.to(train.device).tensor_split([count])
        part, labels = train[fit], train_labels[fit]
        last, best_top1, tried = start, -1.0, 0
        for value in L2_GRID:  # strongest first; each fit starts from the previous one
            last = _fit(part, labels, value, last, covariance)
            top1 = _accuracy(last, train[held], train_labels[held]).top1
            tried += 1
            if top1 > best_top1:
                l2, best_top1, tried = value, top1, 0
            elif tried == _PATIENCE:
                break
    classifier = _fit(train, train_labels, l2, start, covariance)
    accuracy = _accuracy(classifier, test, test_labels)
    weight = classifier[0] * scale
    return LinearProbe(accuracy, best_top1, l2, weight, classifier[1] - weight @ mean)


def _fit(
    features: Tensor,
    labels: Tensor,
    l2: float,
    start: tuple[Tensor, Tensor],
    covariance: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return weight (classes, F) and bias (classes,) at the minimum, to 1e-4 of the objective.

    L-BFGS runs in the coordinates U of W = U L^-1, where L L^T = covariance / 10 + l2 I is about
    the Hessian of a class. This preconditioning saves half to two thirds of the steps.
    """
    classes, width = start[0].shape
    rows = torch.arange(len(features), device=features.device)
    # float64, because the matrix is nearly singular; on the CPU, as some devices lack it
    hessian = covariance.cpu().double() / 10
    hessian.diagonal().add_(l2 + 1e-6 * float(hessian.trace()))
    factor = torch.linalg.cholesky(hessian)
    inverse = torch.linalg.solve_triangular(factor, torch.eye(width).double(), upper=False)
    inverse = inverse.to(features)
    turned = (start[0].cpu().double() @ factor).to(features).requires_grad_()
    bias = start[1].clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [turned, bias],
        max_iter=300,
        tolerance_grad=1e-7,
        tolerance_change=5e-6,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> Tensor:
        weight = turned @ inverse
        logits = weight @ features.T + bias.unsqueeze(1)  # (classes, N) is faster than (N, classes)
        log_sum = logits.logsumexp(0)
        loss = (log_sum - logits.gather(0, labels.unsqueeze(0)).squeeze(0)).mean()
        residual = (logits - log_sum).exp_().div_(len(features))
        residual[labels, rows] -= 1 / len(features)
        turned.grad = (residual @ features + l2 * weight) @ inverse.T
        bias.grad = residual.sum(1)
        return loss + l2 / 2 * weight.square().sum()

    optimizer.step(closure)
    return (turned @ inverse).detach(), bias.detach()


def _accuracy(classifier: tuple[Tensor, Tensor], features: Tensor, labels: Tensor) -> Accuracy:
    weight, bias = classifier
    return Accuracy.of(topk_classes(F.linear(features, weight, bias)), labels, len(bias))

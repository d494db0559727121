"""Linear probe: multinomial logistic regression on frozen features."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from effssl.seeding import seeded_generator

L2_GRID = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)


@dataclass(frozen=True)
class LinearProbe:
    """What a linear probe found.

    Attributes:
        top1: Percentage of test images classified rightly.
        held_out_top1: The same on the held-out part of train, on which l2 was chosen.
        l2: The weight chosen.
        weight: Of the classifier, (classes, F), for features as they come.
        bias: Likewise, (classes,).
    """

    top1: float
    held_out_top1: float
    l2: float
    weight: Tensor = field(compare=False, repr=False)
    bias: Tensor = field(compare=False, repr=False)


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    held_out: float = 0.2,
    seed: int = 0,
) -> LinearProbe:
    """Fit a linear classifier to frozen features and test it once.

    Features are standardised with the mean and standard deviation of train. The classifier
    minimises cross-entropy + l2 / 2 ||W||^2 by L-BFGS. l2 is the value of `L2_GRID` with the best
    accuracy on a random part of train that the fit does not see; then the classifier is fitted to
    all of train.

    Args:
        train_features: (N, F).
        train_labels: Classes from 0, (N,).
        test_features: (M, F).
        test_labels: (M,).
        held_out: Share of train on which l2 is chosen.
        seed: Of the choice of that part.

    Raises:
        ValueError: If the features are not finite, or train has fewer than two classes.
    """
    if not (train_features.isfinite().all() and test_features.isfinite().all()):
        raise ValueError("the features are not finite: the model is broken")
    classes = int(train_labels.max()) + 1
    if len(train_labels.unique()) < 2:
        raise ValueError("a linear probe needs two or more classes in train, got one")
    mean, std = train_features.mean(0), train_features.std(0).clamp(min=1e-6)
    train, test = (train_features - mean) / std, (test_features - mean) / std

    order = torch.randperm(len(train), generator=seeded_generator(seed, "linear probe"))
    held, fit = order.tensor_split([round(held_out * len(train))])
    start = best = (train.new_zeros(classes, train.shape[1]), train.new_zeros(classes))
    best_l2, best_top1 = L2_GRID[0], -1.0
    for l2 in L2_GRID:  # from the strongest on, each fit starting from the one before
        start = _fit(train[fit], train_labels[fit], l2, start)
        top1 = _top1(start, train[held], train_labels[held])
        if top1 > best_top1:
            best_l2, best_top1, best = l2, top1, start
    classifier = _fit(train, train_labels, best_l2, best)
    top1 = _top1(classifier, test, test_labels)
    weight = classifier[0] / std
    return LinearProbe(top1, best_top1, best_l2, weight, classifier[1] - weight @ mean)


def _fit(
    features: Tensor, labels: Tensor, l2: float, start: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Weight (classes, F) and bias (classes,) of the minimum."""
    # two tensors: the gradient of a slice of one would take a product eight times slower
    weight, bias = (tensor.clone().requires_grad_() for tensor in start)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features, weight, bias), labels)
        loss = loss + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def _top1(classifier: tuple[Tensor, Tensor], features: Tensor, labels: Tensor) -> float:
    return 100 * (F.linear(features, *classifier).argmax(1) == labels).float().mean().item()

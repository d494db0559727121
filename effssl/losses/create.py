"""Create a loss by its name, with the weights for the width of the projector."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from effssl.hints import did_you_mean
from effssl.loss_specs import LOSSES


def create_loss(
    name: str,
    *,
    dim: int,
    weight: float | None = None,
    multiview: str = "pairs",
    global_views: int | None = None,
) -> Callable[..., Any]:
    """Create a loss, with the default weight for the width of the projector unless one is given.

    Args:
        name: "bt" (Barlow Twins), "vicreg", "spectral", "simclr", "sigreg", "coding_rate" or
            "wmse".
        dim: Width D of the projector, >= 1.
        weight: Weight of orthogonality in bt (lambd) and spectral (beta); in vicreg that of both
            invariance and variance, beside a covariance of 1; temperature of simclr, share of the
            statistic in sigreg (lambd), weight of invariance in coding_rate; wmse has none. If
            None, the default for the width dim, see `effssl.loss_weights`.
        multiview: "pairs" or "mean", see ``barlow_twins``; the other losses have one form, "pairs".
        global_views: Number of global views, which come first in z; pairs of two others do not
            count. All pairs count if None.

    Returns:
        A function of z, shape (V, N, D), with the keyword ``return_parts``, and for a loss that
        draws at random ``generator``.

    Raises:
        ValueError: If the name is unknown, dim < 1, the weight is not one of the loss, or the loss
            has no such multi-view form.
    """
    if name not in LOSSES:
        hint = did_you_mean(name, LOSSES)
        raise ValueError(f"unknown loss {name!r}; {hint}the losses are {', '.join(LOSSES)}")
    if dim < 1:
        raise ValueError(f"dim must be the projector's width, 1 or more, got {dim}")
    spec = LOSSES[name]
    if weight is not None:
        spec.check_weight(weight, "weight")
    spec.check_multiview(multiview, "multiview")
    function = getattr(importlib.import_module(f"effssl.losses.{spec.function}"), spec.function)
    weight = spec.default_weight(dim) if weight is None else weight
    bound = dict.fromkeys(spec.weights, weight) | {"global_views": global_views}
    if len(spec.multiview) > 1:
        return partial(function, multiview=multiview, **bound)
    return partial(function, **bound)

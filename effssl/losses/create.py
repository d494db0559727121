"""A loss by its name, with the weights for a projector of a given width."""

import difflib
from collections.abc import Callable
from functools import partial

from effssl.losses._projections import check_weights
from effssl.losses._weights import barlow_twins_lambd, vicreg_weight
from effssl.losses.barlow_twins import barlow_twins
from effssl.losses.spectral import spectral
from effssl.losses.vicreg import vicreg

NAMES = ("bt", "vicreg", "spectral")


def create_loss(
    name: str, *, dim: int, weight: float | None = None, multiview: str = "pairs"
) -> Callable:
    """Bind the weights of a loss, by default those for the width of the projector.

    Args:
        name: "bt" (Barlow Twins), "vicreg" or "spectral".
        dim: Width D of the projector, >= 1.
        weight: Of orthogonality in bt (lambd) and spectral (beta), of both invariance and variance
            in vicreg, whose covariance has 1; if None from D, see ``weights.py``, or 1 in
            spectral.
        multiview: "pairs" or "mean", see ``barlow_twins``; the other losses have one form, "pairs".

    Returns:
        A function of z, shape (V, N, D), with the keyword ``return_parts``.

    Raises:
        ValueError: If the name is unknown, dim < 1, the weight is negative, or the loss has no such
            multi-view form.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(str(name), NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown loss {name!r}; {hint}the losses are {', '.join(NAMES)}")
    if dim < 1:
        raise ValueError(f"dim must be the projector's width, 1 or more, got {dim}")
    if multiview not in ("pairs", "mean"):
        raise ValueError(f"multiview is 'pairs' or 'mean', got {multiview!r}")
    if weight is not None:
        check_weights(weight=weight)
    if name == "bt":
        lambd = barlow_twins_lambd(dim) if weight is None else weight
        return partial(barlow_twins, lambd=lambd, multiview=multiview)
    if multiview == "mean":
        raise ValueError(
            f"multiview='mean' is for the loss 'bt'; {name!r} has one form for any number of "
            "views: leave multiview at 'pairs'"
        )
    if name == "vicreg":
        weight = vicreg_weight(dim) if weight is None else weight
        return partial(vicreg, invariance=weight, variance=weight)
    return partial(spectral) if weight is None else partial(spectral, beta=weight)

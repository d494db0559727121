"""A loss by its name, with the weights for a projector of a given width."""

import difflib
from collections.abc import Callable
from functools import partial

from effssl.losses.barlow_twins import barlow_twins
from effssl.losses.spectral import spectral
from effssl.losses.vicreg import vicreg
from effssl.losses.weights import barlow_twins_lambd, vicreg_weight

NAMES = ("bt", "vicreg", "spectral")


def create_loss(name: str, *, dim: int, multiview: str = "pairs") -> Callable:
    """Bind the weights of a loss to the width of the projector.

    Args:
        name: "bt" (Barlow Twins), "vicreg" or "spectral".
        dim: Width D of the projector, >= 1.
        multiview: "pairs" or "mean", see ``barlow_twins``; the other losses have one form, "pairs".

    Returns:
        A function of z, shape (V, N, D), with the keyword ``return_parts``.

    Raises:
        ValueError: If the name is unknown, dim < 1, or the loss has no such multi-view form.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(str(name), NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown loss {name!r}; {hint}the losses are {', '.join(NAMES)}")
    if dim < 1:
        raise ValueError(f"dim must be the projector's width, 1 or more, got {dim}")
    if multiview not in ("pairs", "mean"):
        raise ValueError(f"multiview is 'pairs' or 'mean', got {multiview!r}")
    if name == "bt":
        return partial(barlow_twins, lambd=barlow_twins_lambd(dim), multiview=multiview)
    if multiview == "mean":
        raise ValueError(
            f"multiview='mean' is for the loss 'bt'; {name!r} has one form for any number of "
            "views: leave multiview at 'pairs'"
        )
    if name == "vicreg":
        weight = vicreg_weight(dim)
        return partial(vicreg, invariance=weight, variance=weight)
    return partial(spectral)

"""The projector: what maps features to the input of the loss."""

from __future__ import annotations

from torch import nn

from effssl.hints import option

LAYERS = (1, 2, 3)
"""Numbers of linear layers that a projector can have."""


def build_projector(
    features: int, dim: int, *, layers: int = 2, hidden: int | None = None
) -> nn.Sequential:
    """Build a projector of linear layers, with batch norm and ReLU between them.

    Args:
        features: Width F of the features.
        dim: Width D of the projections.
        layers: Number of linear layers, 1 to 3.
        hidden: Width of the layers between; D if None.

    Raises:
        ValueError: If a width is below 1, there are other than 1 to 3 layers, or one layer with a
            width between.
    """
    if layers not in LAYERS:
        raise ValueError(f"{option('projector_layers')} must be 1, 2 or 3, got {layers}")
    if hidden is not None and layers == 1:
        raise ValueError(
            f"{option('projector_hidden')} {hidden} is the width between layers, and "
            f"{option('projector_layers')} is 1: leave one of them out"
        )
    hidden = dim if hidden is None else hidden
    for name, value in {"projector_dim": dim, "projector_hidden": hidden}.items():
        if value < 1:
            raise ValueError(f"{option(name)} must be 1 or more, got {value}")
    widths = [features, *[hidden] * (layers - 1), dim]
    modules: list[nn.Module] = []
    # The authors' last layer has a bias. Most losses center their input, so its gradient would be
    # rounding noise, which AdamW would scale up; hence there is none.
    for width, following in zip(widths[:-2], widths[1:-1], strict=True):
        modules += [
            nn.Linear(width, following, bias=False),
            nn.BatchNorm1d(following),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*modules, nn.Linear(widths[-2], dim, bias=False))

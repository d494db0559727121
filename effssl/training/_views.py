"""Views of a run, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from effssl.training.config import PretrainConfig
from effssl.views import MultiView
from effssl.views.options import DEFAULTS, PRESETS


def create_views(
    config: PretrainConfig, normalization: Mapping[str, tuple[float, ...]] | None = None
) -> list[MultiView]:
    """Return the views of each size: the global ones, and the local ones if there are any.

    Beside local views, crops of the global ones are at least as large as the largest local one,
    unless their scale is given.

    Args:
        config: Configuration of the run.
        normalization: ``mean`` and ``std`` of the weights that the run goes on from. They replace
            those of the preset; options that are given come first.
    """
    preset = PRESETS.get(config.preset, DEFAULTS)  # one's own is all in `view`
    options = config.view.over(replace(preset, **(normalization or {})))
    whole = MultiView(options, views=config.views, size=config.img_size)
    if not config.local_views:
        return [whole]
    larger = options
    if config.view.scale is None:
        larger = replace(options, scale=larger_scale(options.scale, config.local_scale))
    smaller = replace(options, scale=config.local_scale)
    return [
        MultiView(larger, views=config.views, size=config.img_size),
        MultiView(smaller, views=config.local_views, size=config.local_size),
    ]


def larger_scale(
    scale: tuple[float, float], local_scale: tuple[float, float]
) -> tuple[float, float]:
    """Return the bounds of crops beside local ones, at least as large as the largest of those."""
    return max(scale[0], local_scale[1]), scale[1]

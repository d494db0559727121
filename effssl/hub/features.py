"""Features of a model by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from effssl.data._broken import MAX_BROKEN
from effssl.data.sources import Source, load_source
from effssl.distributed import join
from effssl.evaluation import features
from effssl.evaluation._device import Precision
from effssl.hub.pull import from_pretrained
from effssl.views import MultiView

if TYPE_CHECKING:
    from effssl.data.sources import Images


def extract_features(
    model: nn.Module | str | os.PathLike,
    source: Source | Images,
    *,
    output: str | os.PathLike | None = None,
    views: MultiView | None = None,
    project: bool = False,
    transform: Callable | None = None,
    batch_size: int = 256,
    precision: Precision = "fp32",
    workers: int | None = None,
    seed: int = 0,
    max_broken: float = MAX_BROKEN,
    progress: bool = False,
) -> Tensor | Path:
    """Extract frozen features of every image; see `effssl.evaluation.extract_features`.

    Args:
        model: Module from images to vectors; or a model folder or Hub id for `from_pretrained`,
            which is loaded onto a GPU if there is one.
        source: Map-style images: a source or what `load_source` makes one of, such as a folder or a
            list of paths, PIL images or arrays.
        output: File or folder to write, instead of returning the features.
        views: Random views to average the features over.
        project: Whether to return projections instead of features.
        transform: Function from an image to (C, S, S); that of the model if None.
        batch_size: Images in a forward pass.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``auto``.
        workers: Number of decoding processes; chosen if None.
        seed: Seed of the views.
        max_broken: Largest share of broken images, rounded up to whole images.
        progress: Whether to show a progress bar.

    Returns:
        Float features on the CPU, (N, F), NaN for a broken image; or the path of the output.

    Raises:
        ValueError: If more images are broken, or all, the source is a stream, or an option is
            unknown.
        FileExistsError: If the output exists.
        FileNotFoundError: If there is no such model or data set.
        TypeError: If the source is none of these.
    """
    if isinstance(source, Source):
        features.check_map_style(source)  # before a download
    if isinstance(model, str | os.PathLike):
        model = from_pretrained(model).to(join())
    if not isinstance(source, Source):
        source = load_source(source, in_chans=_channels(model))
    return features.extract_features(
        model,
        source,
        output=output,
        views=views,
        project=project,
        transform=transform,
        batch_size=batch_size,
        precision=precision,
        workers=workers,
        seed=seed,
        max_broken=max_broken,
        progress=progress,
    )


def _channels(model: nn.Module) -> int:
    config = getattr(getattr(model, "backbone", model), "pretrained_cfg", None) or {}
    return config.get("input_size", (3,))[0]

"""Frozen features of every image of a source."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from effssl.data._broken import MAX_BROKEN, BrokenImages
from effssl.data.sources import Source
from effssl.distributed import all_reduce_max, gather_uneven, world_size
from effssl.evaluation._agreement import check_same
from effssl.evaluation._device import Precision, decoding_workers
from effssl.evaluation._extraction import Extraction
from effssl.evaluation._feature_file import FeatureFile, spread
from effssl.processes import check_main_guard
from effssl.progress import Stage
from effssl.views import MultiView

logger = logging.getLogger(__name__)

_BATCH = 256  # images in a forward pass


def extract_features(
    model: nn.Module,
    source: Source,
    *,
    output: str | os.PathLike | None = None,
    views: MultiView | None = None,
    project: bool = False,
    transform: Callable | None = None,
    batch_size: int = _BATCH,
    precision: Precision = "fp32",
    workers: int | None = None,
    seed: int = 0,
    max_broken: float = MAX_BROKEN,
    progress: bool = False,
) -> Tensor | Path:
    """Run a model in eval mode, without gradients, over every image in order.

    Under a launcher such as torchrun each process takes a part of the images, and all get the
    whole result. Batches, and hence features, do not depend on the number of processes.

    Images that cannot be read are named in warnings. In memory their features are NaN, so that row
    i is image i; files leave them out, and tell the row and the path of every image.

    Args:
        model: `SSLModel`, timm backbone, or any module from images to vectors. Its weights,
            buffers, modes and device stay as they are. `effssl.extract_features` also takes a
            model folder or Hub id.
        source: Map-style images, from `load_source`.
        output: File to write instead of returning the features: ``.parquet`` with the columns
            ``features``, ``labels`` if the source has them (-1 for none), ``path`` (null where an
            image has none) and ``row``, its row in the source; ``.safetensors`` with tensors
            ``features``, ``labels``, ``rows`` and, if there are any, ``paths``, the bytes of the
            paths in UTF-8 with NUL between them; or a folder for ``datasets.load_from_disk`` with
            the images, their labels, ``features``, ``path`` and ``row``. An interrupted extraction
            resumes when it is started again. All processes must see the folder.
        views: Random views to average the features over (16 in arXiv:2312.10725), instead of the
            transform. They are normalized as the model expects.
        project: Whether to return projections instead of features.
        transform: Function from a PIL image, or uint8 pixels (C, H, W) where the source holds
            arrays, to (C, S, S); `create_transform` of the model if None.
        batch_size: Images in a forward pass.
        precision: ``fp32`` computes in the type of the weights and gives timm's features to the
            bit; ``bf16`` and ``fp16`` use autocast, several times faster on a GPU; ``auto`` is bf16
            on a GPU that has it, else fp32. The result is float32.
        workers: Number of decoding processes; if None one for each core, at most 8, and none for
            fewer than 2,000 images or on a CPU.
        seed: Seed of the views.
        max_broken: Largest share of broken images, rounded up to whole images.
        progress: Whether to show a progress bar.

    Returns:
        Float features on the CPU, (N, F), NaN for a broken image; or the path of the output.

    Raises:
        ValueError: If more images are broken, or all, the source is a stream, the precision is
            unknown, the output has another ending, or the processes were not given the same.
        FileExistsError: If the output exists.
    """
    check_main_guard("effssl.extract_features")
    check_map_style(source)
    met = BrokenImages(len(source.dataset), max_broken=max_broken)
    options = (views, project, transform, batch_size, precision, seed)
    job = Extraction(model, source, *options, met=met)
    if world_size() > 1:
        check_same(job.given() | {"outputs": f"{output}"})
    workers = decoding_workers(workers, len(job), job.device)
    if output is not None:
        return _to_file(job, Path(output), workers, progress)
    features, places = _in_memory(job, workers, progress)
    _say_left_out(job, places, "their features are NaN")
    return spread(features, places, range(len(job)))


def extract_readable(
    model: nn.Module,
    source: Source,
    rows: Sequence[int],
    met: BrokenImages,
    *,
    transform: Callable | None = None,
    precision: Precision = "fp32",
    workers: int | None = None,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Extract the features of the readable images among some rows of a source.

    Args:
        model: As for `extract_features`, and so are the other arguments but for those below.
        source: Map-style images.
        rows: Rows of the source.
        met: Broken images of the source, which gets those met here: it names each only once.
        transform: Transform of an image.
        precision: Precision of the model.
        workers: Number of decoding processes.
        progress: Whether to show a progress bar.

    Returns:
        Float features on the CPU, (n, F), and the places of their images among the rows, (n,).

    Raises:
        ValueError: As for `extract_features`.
    """
    check_map_style(source)
    options = (None, False, transform, _BATCH, precision, 0)
    job = Extraction(model, source, *options, rows=rows, met=met)
    workers = decoding_workers(workers, len(job), job.device)
    return _in_memory(job, workers, progress)


def extract_views(
    model: nn.Module,
    source: Source,
    views: MultiView,
    *,
    batch_size: int = _BATCH,
    precision: Precision = "fp32",
    workers: int | None = None,
    seed: int = 0,
    max_broken: float = MAX_BROKEN,
) -> Tensor:
    """Extract features of random views of every image, in eval mode and without gradients.

    Args:
        model: As for `extract_features`.
        source: Map-style images.
        views: Function that makes the V views.
        batch_size: Images in a forward pass.
        precision: As for `extract_features`.
        workers: As for `extract_features`.
        seed: Seed of the views.
        max_broken: As for `extract_features`.

    Returns:
        Float features on the CPU, (V, N, F); NaN for a broken image.

    Raises:
        ValueError: As for `extract_features`.
    """
    rows = range(len(source.dataset))
    met = BrokenImages(len(rows), max_broken=max_broken)
    options = (precision, workers, batch_size, seed)
    return spread(*extract_readable_views(model, source, rows, met, views, *options), rows)


def extract_readable_views(
    model: nn.Module,
    source: Source,
    rows: Sequence[int],
    met: BrokenImages,
    views: MultiView,
    precision: Precision,
    workers: int | None,
    batch_size: int = _BATCH,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Extract features of views of the readable images among some rows.

    The arguments are those of `extract_views` and `extract_readable`.

    Returns:
        Float features on the CPU, (V, n, F), and the places of their images among the rows, (n,).
    """
    options = (views, False, None, batch_size, precision, seed, False)
    job = Extraction(model, source, *options, rows=rows, met=met)
    workers = decoding_workers(workers, len(job), job.device)
    parts = [found.features for found in job.run(range(job.batches), workers)]
    places = job.readable()
    return torch.cat([part for part in parts if part is not None], dim=1), places


def check_map_style(source: Source) -> None:
    """Raise ValueError for a stream."""
    if source.streaming:
        raise ValueError("features need a map-style source; load it without streaming")


def gathered(mine: Tensor | None) -> Tensor:
    """Gather the rows of all processes, in the order of their ranks.

    Args:
        mine: Rows of this process on the CPU, (n, F); None if it has none.

    Returns:
        (N, F).
    """
    if world_size() == 1:
        return torch.empty(0, 0) if mine is None else mine
    width = all_reduce_max(0 if mine is None else mine.shape[1])
    return gather_uneven(torch.empty(0, width) if mine is None else mine)


def _stage(job: Extraction, batches: Sequence[int], progress: bool) -> Stage:
    """Make a stage that counts the images of some batches."""
    images = sum(len(job.places(batch)) for batch in batches)
    return Stage("features", images, shown=progress and _rank() == 0)


def _in_memory(job: Extraction, workers: int, progress: bool) -> tuple[Tensor, Tensor]:
    """Return features of readable images, (n, F), and their places, on every process."""
    batches = _share(range(job.batches))
    with _stage(job, batches, progress) as stage:
        found = (found.features for found in job.run(batches, workers, stage))
        mine = [features for features in found if features is not None]
        places = job.readable()
    return gathered(torch.cat(mine) if mine else None), places


def _to_file(job: Extraction, output: Path, workers: int, progress: bool) -> Path:
    fingerprint = job.fingerprint() if _rank() == 0 else ""  # only rank 0 compares it
    with FeatureFile(output, job.source, job.width(), job.batches, fingerprint) as file:
        left, known = file.progress()
        job.broken |= known
        left = _share(left)
        with _stage(job, left, progress) as stage:
            for found in job.run(left, workers, stage):
                file.write(job.places(found.number), found)
            kept = job.readable()
    _say_left_out(job, kept, "they are left out")
    with Stage(f"write {output.name}", shown=progress and _rank() == 0):
        file.finish(kept)
    return output


def _say_left_out(job: Extraction, readable: Tensor, what: str) -> None:
    lost = len(job) - len(readable)
    if lost:
        logger.warning("%d of %d images cannot be read: %s", lost, len(job), what)


def _share(batches: Sequence[int]) -> Sequence[int]:
    """Return the contiguous part of batches that this process takes."""
    first, end = ((_rank() + i) * len(batches) // world_size() for i in (0, 1))
    return batches[first:end]


def _rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0

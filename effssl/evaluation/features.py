"""Frozen features of every image of a source."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from effssl.data.sources import Source
from effssl.distributed import all_reduce_max, gather_uneven, world_size
from effssl.evaluation._device import Precision, decoding_workers
from effssl.evaluation._extraction import Extraction
from effssl.evaluation._feature_file import FeatureFile
from effssl.processes import check_main_guard
from effssl.views import MultiView


def extract_features(
    model: nn.Module,
    source: Source,
    *,
    output: str | os.PathLike | None = None,
    views: MultiView | None = None,
    project: bool = False,
    transform: Callable | None = None,
    batch_size: int = 256,
    precision: Precision = "fp32",
    workers: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Tensor | Path:
    """Run a model in eval mode, without gradients, over every image in order.

    Under a launcher such as torchrun each process takes a part of the images, and all get the
    whole result. Batches, and hence features, do not depend on the number of processes.

    Args:
        model: `SSLModel`, timm backbone, or any module from images to vectors. Its weights,
            buffers, modes and device stay as they are. `effssl.extract_features` also takes a
            model folder or Hub id.
        source: Map-style images, from `load_source`.
        output: File to write instead of returning the features: ``.safetensors`` with ``features``
            and, if the source has them, ``labels``; ``.parquet`` with the same columns; or a
            folder for ``datasets.load_from_disk`` with the images, their labels and ``features``.
            An interrupted extraction resumes when it is started again. All processes must see the
            folder.
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
        progress: Whether to show a progress bar.

    Returns:
        Float features on the CPU, (N, F), or the path of the output.

    Raises:
        ValueError: If an image is broken, the source is a stream, the precision is unknown, or the
            output has another ending.
        FileExistsError: If the output exists.
    """
    check_main_guard("effssl.extract_features")
    check_map_style(source)
    job = Extraction(model, source, views, project, transform, batch_size, precision, seed)
    workers = decoding_workers(workers, len(source.dataset), job.device)
    with _bar(len(source.dataset), progress) as bar:
        if output is not None:
            return _to_file(job, Path(output), workers, bar)
        mine = [features for _, features in job.run(_share(range(job.batches)), workers, bar)]
        return gathered(torch.cat(mine) if mine else None)


def extract_views(
    model: nn.Module,
    source: Source,
    views: MultiView,
    *,
    batch_size: int = 256,
    precision: Precision = "fp32",
    workers: int | None = None,
    seed: int = 0,
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

    Returns:
        Float features on the CPU, (V, N, F).

    Raises:
        ValueError: As for `extract_features`.
    """
    job = Extraction(model, source, views, False, None, batch_size, precision, seed, average=False)
    workers = decoding_workers(workers, len(source.dataset), job.device)
    return torch.cat([f for _, f in job.run(range(job.batches), workers)], dim=1)


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
        return mine
    width = all_reduce_max(0 if mine is None else mine.shape[1])
    return gather_uneven(torch.empty(0, width) if mine is None else mine)


def _bar(images: int, progress: bool) -> tqdm:
    shown = progress and _rank() == 0
    return tqdm(
        total=images,
        desc="features",
        unit="image",
        unit_scale=True,
        disable=None if shown else True,
    )


def _to_file(job: Extraction, output: Path, workers: int, bar: tqdm) -> Path:
    fingerprint = job.fingerprint() if _rank() == 0 else ""  # only rank 0 compares it
    file = FeatureFile(output, job.source, job.width(), job.batches, fingerprint)
    left = file.batches_left()
    bar.update(len(job.source.dataset) - sum(len(job.rows(batch)) for batch in left))
    for batch, features in job.run(_share(left), workers, bar):
        file.write(batch, job.rows(batch), features)
    file.finish()
    return output


def _share(batches: Sequence[int]) -> Sequence[int]:
    """Return the contiguous part of batches that this process takes."""
    first, end = ((_rank() + i) * len(batches) // world_size() for i in (0, 1))
    return batches[first:end]


def _rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0

"""Frozen features of every image of a source."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from effssl.data._decode import BrokenImage, image_name, open_image
from effssl.data._loader import Batch, collate, decode_or_broken, decode_size
from effssl.data.sources import Source
from effssl.distributed import all_reduce_max, count_rows, gather_rows, join, world_size
from effssl.evaluation._device import (
    Precision,
    autocast,
    copied,
    decoding_workers,
    resolve_precision,
)
from effssl.evaluation._feature_file import FeatureFile
from effssl.hub.pull import from_pretrained
from effssl.seeding import seeded_generator
from effssl.transform import EvalTransform, create_transform
from effssl.views import MultiView

logger = logging.getLogger(__name__)

_EVERY = "features need every image"


def extract_features(
    model: nn.Module | str | os.PathLike,
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
    whole result. The batches, and with them the features, do not depend on how many there are.

    Args:
        model: An `SSLModel`, a timm backbone, or any module from images to vectors, whose weights,
            buffers, modes and device stay as they are; or a model folder or Hub id, which is loaded
            onto a GPU if there is one.
        source: Map-style images, from `load_source`.
        output: File to write instead of holding all features in memory: ``.safetensors`` with
            ``features`` and, if the source has them, ``labels``; ``.parquet`` with the same
            columns; or a folder, which becomes a ``datasets.Dataset`` of the images, their labels
            and ``features``, for ``load_from_disk``. Rows are in the order of the source. A killed
            extraction goes on where it was when it is started again; all processes must see the
            folder.
        views: If given, an image's features are the mean over so many random views of it (16 in
            arXiv:2312.10725), instead of those of the transform. They are normalised as the model
            wants it, not as the views say.
        project: Projections instead of features.
        transform: From a PIL image, or uint8 pixels (C, H, W) where the source holds arrays, to
            (C, S, S); `create_transform` of the model if None.
        batch_size: Images a forward pass.
        precision: ``fp32`` to compute in the type of the weights, with which features are those of
            timm to the bit; ``bf16`` or ``fp16`` for autocast to it, several times faster on a GPU;
            ``auto`` for bf16 on a GPU that has it, else fp32. The result is float32 in any case.
        workers: Processes that decode and crop; if None one for each core up to 8, but none for
            fewer than 2,000 images, or on a CPU, whose cores the model takes.
        seed: Of the views.
        progress: Show a progress bar.

    Returns:
        Float features on the CPU, (N, F), or the path of the output.

    Raises:
        ValueError: If an image is broken, since every one must have its features, the source is a
            stream, the precision unknown, or the output has another ending.
        FileExistsError: If the output exists.
    """
    if source.streaming:
        raise ValueError("features need a map-style source; load it without streaming")
    if isinstance(model, str | os.PathLike):
        model = from_pretrained(model).to(join())
    job = _Job(model, source, views, project, transform, batch_size, precision, seed)
    workers = decoding_workers(workers, len(source.dataset), job.device)
    rank = dist.get_rank() if world_size() > 1 else 0
    bar = tqdm(
        total=len(source.dataset),
        desc="features",
        unit="image",
        unit_scale=True,
        disable=None if progress and rank == 0 else True,
    )
    with bar:
        if output is None:
            first, end = ((rank + i) * job.batches // world_size() for i in (0, 1))
            mine = [features for _, features in job.run(range(first, end), workers, bar)]
            return gathered(torch.cat(mine) if mine else None)
        return _to_file(job, Path(output), workers, bar, rank)


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
    """Features of random views of every image, in eval mode and without gradients.

    Args:
        model: As `extract_features`.
        source: Map-style images.
        views: What makes the V views.
        batch_size: Images a forward pass.
        precision: As `extract_features`.
        workers: As `extract_features`.
        seed: Of the views.

    Returns:
        Float features on the CPU, (V, N, F).

    Raises:
        ValueError: As `extract_features`.
    """
    job = _Job(model, source, views, False, None, batch_size, precision, seed, average=False)
    workers = decoding_workers(workers, len(source.dataset), job.device)
    return torch.cat([f for _, f in job.run(range(job.batches), workers)], dim=1)


class _Job:
    """What is to be extracted, batch by batch."""

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        views: MultiView | None,
        project: bool,
        transform: Callable | None,
        batch_size: int,
        precision: Precision,
        seed: int,
        average: bool = True,
    ) -> None:
        self.model, self.source, self.views, self.seed = model, source, views, seed
        self.project, self.average, self.batch_size = project, average, batch_size
        parameter = next(model.parameters(), torch.empty(0))
        self.device, self.dtype = parameter.device, parameter.dtype
        join(cpu=self.device.type == "cpu")
        self.precision = resolve_precision(precision, self.device)
        self.batches = -(-len(source.dataset) // batch_size)
        self.transform = transform
        if transform is None:
            try:
                self.transform = create_transform(model)
            except AttributeError as error:
                raise ValueError(
                    f"a {type(model).__name__} does not say what input it takes: give transform"
                ) from error
        if views is not None and isinstance(self.transform, EvalTransform):
            mean, std = tuple(self.transform.mean), tuple(self.transform.std)
            options = replace(views.options, mean=mean, std=std)
            self.views = MultiView(options, views=views.views, size=views.size)

    def rows(self, batch: int) -> range:
        """Rows of the source of a batch."""
        first = batch * self.batch_size
        return range(first, min(first + self.batch_size, len(self.source.dataset)))

    def width(self) -> int:
        """Of the features, from a first image."""
        (features,) = (features for _, features in self.run([0], 0, first_only=True))
        return features.shape[-1]

    def fingerprint(self) -> str:
        """Of all that the output depends on."""
        from datasets.fingerprint import Hasher

        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
        what = self.views and (self.views.options, self.views.views, self.views.size, self.seed)
        how = Hasher.hash(self.transform)  # by what a function does, not by where it lies
        digest.update(f"{self.model} {what} {how} {self.project} {self.batch_size}".encode())
        digest.update(self.precision.encode())
        digest.update(self.source.digest().encode())
        if self.source.label_column is not None:  # which are written along
            digest.update(repr(self.source.dataset[self.source.label_column][:]).encode())
        return digest.hexdigest()

    def run(
        self,
        batches: Sequence[int],
        workers: int,
        bar: tqdm | None = None,
        *,
        first_only: bool = False,
    ) -> Iterator[tuple[int, Tensor]]:
        """Each batch's number and features, (n, F) each, or (V, n, F) if they are not averaged."""
        loader = DataLoader(
            _Images(self.source, self.transform, self.views),
            batch_sampler=[list(self.rows(b))[: 1 if first_only else None] for b in batches],
            collate_fn=_stack
            if self.views is None
            else partial(_padded, channels=self.source.in_chans),
            num_workers=workers if len(batches) > 1 else 0,
            pin_memory=self.device.type == "cuda" and workers > 0,  # by a thread
        )
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            for batch, images in zip(batches, loader, strict=True):
                if isinstance(images, BrokenImage):
                    if world_size() > 1:  # of which the launcher may end the others at once
                        logger.error("process %d: %s", dist.get_rank(), images)
                    raise images
                # not inference mode, whose tensors could take no part in a probe's autograd
                with torch.no_grad():
                    features = self._features(images, batch).float().cpu()
                if bar is not None:
                    bar.update(len(self.rows(batch)))
                yield batch, features
        finally:
            for module, training in modes:
                module.training = training

    def _features(self, images: Tensor | Batch, batch: int) -> Tensor:
        if self.views is None:
            images = copied(images, self.device)
            if isinstance(self.transform, EvalTransform):
                images = self.transform.normalize(images)
            return self._forward(images)
        generator = seeded_generator(self.seed, "features", batch)
        draws = self.views.draw(len(images.sizes), generator, channels=images.channels)
        plan = self.views.plan(draws, images.sizes, images.starts, channels=images.channels)
        pixels = copied(images.pixels, self.device)
        views = self.views.render(pixels, plan, channels=images.channels)
        features = [self._forward(view) for view in views]
        stacked = torch.stack(features)
        return stacked.mean(0) if self.average else stacked

    def _forward(self, images: Tensor) -> Tensor:
        images = images.to(self.dtype)
        with autocast(self.precision, self.device):
            return self.model(images, project=True) if self.project else self.model(images)


class _Images(Dataset):
    def __init__(self, source: Source, transform: Callable | None, views: MultiView | None) -> None:
        self.source, self.views = source, views
        self.transform = transform.crop if isinstance(transform, EvalTransform) else transform

    def __len__(self) -> int:
        return len(self.source.dataset)

    def __getitems__(self, rows: list[int]) -> list[Tensor | BrokenImage]:
        values = self.source.dataset[rows][self.source.image_column]
        return [self._read(row, value) for row, value in zip(rows, values, strict=True)]

    def _read(self, row: int, value: object) -> Tensor | BrokenImage:
        if self.views is not None:
            # as training keeps images: a little more than the size of the views
            return decode_or_broken(
                value, f"row {row}", self.source.in_chans, decode_size(self.views.size)
            )
        try:
            image = open_image(value, self.source.in_chans)
        except BrokenImage as error:
            return BrokenImage(f"{image_name(value, f'row {row}')}: {error}")
        return self.transform(image)


def _stack(images: list[Tensor | BrokenImage]) -> Tensor | BrokenImage:
    # handed on, since an error raised in a worker comes with its traceback as the message
    broken = [image for image in images if isinstance(image, BrokenImage)]
    return BrokenImage(f"{broken[0]}; {_EVERY}") if broken else torch.stack(images)


def _padded(images: list[Tensor | BrokenImage], channels: int) -> Batch | BrokenImage:
    batch = collate(images, channels)
    return BrokenImage(f"{batch.broken[0]}; {_EVERY}") if batch.broken else batch


def gathered(mine: Tensor | None) -> Tensor:
    """The rows of all processes, in the order of their ranks.

    Args:
        mine: Of this process, on the CPU, (n, F); None if it has none.

    Returns:
        (N, F).
    """
    if world_size() == 1:
        return mine
    width = all_reduce_max(0 if mine is None else mine.shape[1])
    mine = torch.empty(0, width) if mine is None else mine
    counts = count_rows(len(mine), mine.device)
    padded = gather_rows(mine.unsqueeze(0), max(counts))[0].split(max(counts))
    return torch.cat([part[:count] for part, count in zip(padded, counts, strict=True)])


def _to_file(job: _Job, output: Path, workers: int, bar: tqdm, rank: int) -> Path:
    fingerprint = job.fingerprint() if rank == 0 else ""  # which alone compares it
    file = FeatureFile(output, job.source, job.width(), job.batches, fingerprint)
    left = file.batches_left()
    bar.update(len(job.source.dataset) - sum(len(job.rows(batch)) for batch in left))
    first, end = ((rank + i) * len(left) // world_size() for i in (0, 1))
    for batch, features in job.run(left[first:end], workers, bar):
        file.write(batch, job.rows(batch), features)
    file.finish()
    return output

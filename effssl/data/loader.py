"""Batches of images whose order depends on the seed and the epoch alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from effssl.data.decode import BrokenImage, decode_image, image_name
from effssl.data.sources import Source
from effssl.seeding import seeded_generator


class Batch(NamedTuple):
    """One process's part of a global batch.

    Attributes:
        images: uint8, (n, C, H, W), padded with zeros at the bottom and right.
        sizes: Height and width of each image without its padding, (n, 2).
        rows: Place of each image in this process's part of the batch, (n,); broken images have
            left gaps.
        count: Images that count: n, or 0 where no image could be read and a black one stands in,
            since a network cannot run on nothing.
        broken: What was wrong with each broken image.
    """

    images: Tensor
    sizes: Tensor
    rows: Tensor
    count: int
    broken: list[str]


def collate(items: list[Tensor | BrokenImage], channels: int) -> Batch:
    """Pad images, (C, h, w) each, to one batch; broken ones leave it smaller."""
    broken = [str(item) for item in items if isinstance(item, BrokenImage)]
    rows = [row for row, item in enumerate(items) if isinstance(item, Tensor)]
    images = [items[row] for row in rows]
    count = len(images)
    if not images:
        rows, images = [0], [torch.zeros(channels, 1, 1, dtype=torch.uint8)]
    sizes = torch.tensor([image.shape[1:] for image in images])
    if (sizes == sizes[0]).all():
        batch = torch.stack(images)
    else:
        height, width = sizes.max(0).values.tolist()
        batch = images[0].new_zeros(len(images), channels, height, width)
        for padded, image in zip(batch, images, strict=True):
            padded[:, : image.shape[1], : image.shape[2]] = image
    return Batch(batch, sizes, torch.tensor(rows), count, broken)


def decode_or_broken(value, place: str, channels: int, short_side: int) -> Tensor | BrokenImage:
    """A cell of an image column as a uint8 tensor, (C, H, W), or where it is and what is wrong."""
    try:
        return torch.from_numpy(decode_image(value, channels, short_side))
    except BrokenImage as error:
        return BrokenImage(f"{image_name(value, place)}: {error}")


class DecodedImages(Dataset):
    """The images of a source, decoded when they are asked for.

    Args:
        source: Images.
        short_side: Larger images are shrunk until their shorter side has so many pixels.
    """

    def __init__(self, source: Source, short_side: int) -> None:
        self.source, self.short_side = source, short_side

    def __len__(self) -> int:
        return len(self.source.dataset)

    def __getitems__(self, indices: list[int]) -> list[Tensor | BrokenImage]:
        values = self.source.dataset[indices][self.source.image_column]
        return [
            decode_or_broken(value, f"row {row}", self.source.in_chans, self.short_side)
            for row, value in zip(indices, values, strict=True)
        ]


def local_part(batch_size: int, images: int, rank: int, world_size: int) -> slice:
    """Which images of every global batch of B are process r's: from B r / W to B (r + 1) / W.

    Raises:
        ValueError: If the images do not fill one batch, or the batch does not reach all processes.
    """
    if batch_size > images:
        raise ValueError(
            f"batch_size {batch_size} is more than the {images} images of the data set"
        )
    if batch_size < world_size:
        raise ValueError(f"batch_size {batch_size} is less than the {world_size} processes")
    return slice(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)


class EpochBatches:
    """Indices of this process's part of every global batch of an epoch.

    Every image comes once an epoch, but for the last, incomplete batch, which is dropped. The
    global batches do not depend on the number of processes.

    Args:
        images: Images in the data set.
        batch_size: Global batch, B.
        seed: Seed of the run.
        rank: This process, r.
        world_size: Processes, W.

    Attributes:
        local: This process's part of a global batch, as `local_part` says.
        epoch: Epoch whose order the next iteration follows; set it before.
        first: Batch of the epoch to begin with, when resuming within one.

    Raises:
        ValueError: If there is not one whole batch, or not one image a process.
    """

    def __init__(
        self, images: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.local = local_part(batch_size, images, rank, world_size)
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return self.images // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        generator = seeded_generator(self.seed, "order", self.epoch)
        order = torch.randperm(self.images, generator=generator)
        for batch in range(self.first, len(self)):
            start = batch * self.batch_size
            yield order[start : start + self.batch_size][self.local].tolist()


def image_loader(images: Dataset, batches: EpochBatches, channels: int, workers: int) -> DataLoader:
    """Load each list of indices of ``batches`` as a `Batch`, in worker processes if any."""
    return DataLoader(
        images,
        batch_sampler=batches,
        collate_fn=partial(collate, channels=channels),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available() and workers > 0,
    )


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

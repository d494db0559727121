"""Batches of images whose order depends on the seed and the epoch alone."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from effssl.data._decode import BrokenImage, decode_image, image_name
from effssl.data.sources import Source
from effssl.seeding import seeded_generator


class Batch(NamedTuple):
    """One process's part of a global batch, packed: an image costs its own pixels and no padding.

    Attributes:
        pixels: uint8, flat: images of (C, h, w) one after another. It may hold others too, such as
            a whole data set that lies on a GPU.
        starts: Place of the first pixel of each image, (n,).
        sizes: Height and width of each image, (n, 2).
        rows: Place of each image in this process's part of the batch, (n,), rising; broken images
            have left gaps.
        broken: What was wrong with each broken image.
        channels: Channels of the images, C.
    """

    pixels: Tensor
    starts: Tensor
    sizes: Tensor
    rows: Tensor
    broken: list[str]
    channels: int

    def image(self, place: int) -> Tensor:
        """One of the images, (C, h, w)."""
        start, (height, width) = int(self.starts[place]), self.sizes[place].tolist()
        end = start + self.channels * height * width
        return self.pixels[start:end].view(self.channels, height, width)


def collate(items: list[Tensor | BrokenImage], channels: int) -> Batch:
    """Pack images, (C, h, w) each, to one batch; broken ones leave it smaller, or empty."""
    broken = [str(item) for item in items if isinstance(item, BrokenImage)]
    rows = [row for row, item in enumerate(items) if isinstance(item, Tensor)]
    images = [items[row] for row in rows]
    sizes = torch.tensor([image.shape[1:] for image in images]).reshape(-1, 2)
    pixels = torch.cat([image.flatten() for image in images]) if images else torch.empty(0).byte()
    ends = (channels * sizes.prod(1)).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])[: len(rows)]
    return Batch(pixels, starts, sizes, torch.tensor(rows, dtype=torch.long), broken, channels)


def decode_or_broken(value, place: str, channels: int, short_side: int) -> Tensor | BrokenImage:
    """A cell of an image column as a uint8 tensor, (C, H, W), or where it is and what is wrong."""
    try:
        return torch.from_numpy(decode_image(value, channels, short_side))
    except BrokenImage as error:
        return BrokenImage(f"{image_name(value, place)}: {error}")


def decode_size(img_size: int) -> int:
    """Pixels of the shorter side to which larger images are shrunk before views are made.

    256 for views of 224, as is usual on ImageNet.
    """
    return math.ceil(img_size * 8 / 7)


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


@dataclass(frozen=True)
class BatchShard:
    """Which images of every global batch are this process's.

    A batch of B images is B / M chunks of M, each of which passes through the backbone by itself.
    Of every chunk process r of W has the images from M r / W to M (r + 1) / W, so that a chunk
    holds the same images for any number of processes.

    Args:
        batch_size: Global batch, B.
        micro_batch: Global images a chunk, M; all of the batch if None.
        rank: This process, r.
        world_size: Processes, W.

    Raises:
        ValueError: If the chunks do not make up the batch, or do not reach all processes.
    """

    batch_size: int
    micro_batch: int | None = None
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.chunk:
            raise ValueError(
                f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}"
            )
        if self.chunk < self.world_size:
            name = "batch_size" if self.micro_batch is None else "micro_batch"
            raise ValueError(f"{name} {self.chunk} is less than the {self.world_size} processes")

    @property
    def chunk(self) -> int:
        """M, images of a chunk over all processes."""
        return self.batch_size if self.micro_batch is None else self.micro_batch

    @property
    def places(self) -> Tensor:
        """Places of this process's images in the global batch, chunk after chunk."""
        chunks = torch.arange(self.batch_size).view(-1, self.chunk)
        first, end = (self.chunk * r // self.world_size for r in (self.rank, self.rank + 1))
        return chunks[:, first:end].flatten()

    def chunks(self, rows: Tensor) -> list[slice]:
        """Which of the images that a `Batch` holds, as its ``rows`` tell, are in each chunk."""
        images = len(self.places)
        size = images * self.chunk // self.batch_size
        ends = torch.searchsorted(rows, torch.arange(0, images + 1, size)).tolist()
        return [slice(*pair) for pair in pairwise(ends)]


def check_one_batch(images: int, local: BatchShard) -> None:
    """Raise ValueError if so many images do not fill one global batch."""
    if local.batch_size > images:
        raise ValueError(
            f"batch_size {local.batch_size} is more than the {images} images of the data set"
        )


class EpochBatches:
    """Indices of this process's part of every global batch of an epoch.

    Every image comes once an epoch, but for the last, incomplete batch, which is dropped. The
    global batches do not depend on the number of processes.

    Args:
        images: Images in the data set.
        local: This process's part of every batch.
        seed: Seed of the run.

    Attributes:
        epoch: Epoch whose order the next iteration follows; set it before.
        first: Batch of the epoch to begin with, when resuming within one.

    Raises:
        ValueError: If there is not one whole batch.
    """

    def __init__(self, images: int, local: BatchShard, seed: int) -> None:
        check_one_batch(images, local)
        self.images, self.local, self.seed = images, local, seed
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return self.images // self.local.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        generator = seeded_generator(self.seed, "order", self.epoch)
        order, places = torch.randperm(self.images, generator=generator), self.local.places
        for batch in range(self.first, len(self)):
            yield order[batch * self.local.batch_size + places].tolist()


def image_loader(
    images: Dataset, batches: EpochBatches, channels: int, workers: int, *, pin_memory: bool = False
) -> DataLoader:
    """Load each list of indices of ``batches`` as a `Batch`.

    Args:
        images: Gives a list of images for a list of indices.
        batches: Order of the images.
        channels: Channels of the images.
        workers: Processes that decode; 0 decodes in this one.
        pin_memory: Whether batches of workers come in pinned memory.
    """
    return DataLoader(
        images,
        batch_sampler=batches,
        collate_fn=partial(collate, channels=channels),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory and workers > 0,
    )


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

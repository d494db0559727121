"""Batches of images, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from effssl.data._constant import is_constant
from effssl.data._decode import decode_image, image_name
from effssl.data._pixels import BrokenImage
from effssl.data.sources import Source
from effssl.hints import option
from effssl.processes import start_method
from effssl.seeding import seeded_generator


class Batch(NamedTuple):
    """One process's part of a global batch, packed without padding.

    Attributes:
        pixels: Flat uint8 pixels, images of (C, h, w) one after another. They may include other
            images, such as a whole data set on a GPU.
        starts: Offset of each image's first pixel, (n,).
        sizes: Height and width of each image, (n, 2).
        rows: Row of each image in this process's part of the batch, (n,), rising; broken images
            leave gaps.
        broken: Why each broken image cannot be read.
        channels: Number of channels, C.
        constant: Names of those images that are one constant color, as far as this was looked for.
    """

    pixels: Tensor
    starts: Tensor
    sizes: Tensor
    rows: Tensor
    broken: list[str]
    channels: int
    constant: Sequence[str] = ()

    def image(self, place: int) -> Tensor:
        """Return one of the images, (C, h, w)."""
        start, (height, width) = int(self.starts[place]), self.sizes[place].tolist()
        end = start + self.channels * height * width
        return self.pixels[start:end].view(self.channels, height, width)


def collate(items: list[Tensor | BrokenImage], channels: int) -> Batch:
    """Pack images, (C, h, w) each, into one batch; broken ones leave it smaller, or empty."""
    broken = [str(item) for item in items if isinstance(item, BrokenImage)]
    rows = [row for row, item in enumerate(items) if isinstance(item, Tensor)]
    images = [items[row] for row in rows]
    sizes = torch.tensor([image.shape[1:] for image in images]).reshape(-1, 2)
    pixels = torch.cat([image.flatten() for image in images]) if images else torch.empty(0).byte()
    ends = (channels * sizes.prod(1)).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])[: len(rows)]
    kept = torch.tensor(rows, dtype=torch.long)
    constant = [name for name in map(name_of_constant, images) if name is not None]
    return Batch(pixels, starts, sizes, kept, broken, channels, constant)


def decode_or_broken(
    value: object, place: str, source: Source, short_side: int
) -> Tensor | BrokenImage:
    """Decode a cell to a uint8 tensor, (C, H, W), or say where it is and why it cannot be read.

    An image of one constant color is told by `name_of_constant`.
    """
    try:
        pixels = decode_image(
            value,
            source.in_chans,
            short_side,
            value_range=source.value_range,
            background=source.background,
            max_pixels=source.max_pixels,
        )
        image = torch.from_numpy(pixels)
        if is_constant(pixels):
            image.constant_name = image_name(value, place)
        return image
    except BrokenImage as error:
        return BrokenImage(f"{image_name(value, place)}: {error}")


def name_of_constant(image: Tensor) -> str | None:
    """Return the name of an image from `decode_or_broken` if it is one constant color."""
    return getattr(image, "constant_name", None)


def decode_size(img_size: int) -> int:
    """Return the shorter side, in pixels, to which larger images are shrunk before cropping.

    It is 256 for views of 224 pixels, as usual on ImageNet.
    """
    return math.ceil(img_size * 8 / 7)


class DecodedImages(Dataset):
    """The images of a source, decoded on access.

    Args:
        source: Map-style images.
        short_side: Most pixels of the shorter side; larger images are shrunk.
    """

    def __init__(self, source: Source, short_side: int) -> None:
        self.source, self.short_side = source, short_side

    def __len__(self) -> int:
        return len(self.source.dataset)

    def __getitems__(self, indices: list[int]) -> list[Tensor | BrokenImage]:
        values = self.source.dataset[indices][self.source.image_column]
        return [
            decode_or_broken(value, f"row {row}", self.source, self.short_side)
            for row, value in zip(indices, values, strict=True)
        ]


@dataclass(frozen=True)
class BatchShard:
    """This process's part of every global batch.

    A batch of B images is split into B / M chunks of M images. Each chunk passes through the
    backbone by itself. Rank r of W takes images M r / W to M (r + 1) / W of each chunk, so that a
    chunk holds the same images for any number of processes.

    Args:
        batch_size: Images in a global batch, B.
        micro_batch: Images in a chunk over all processes, M; the whole batch if None.
        rank: Rank of this process, r.
        world_size: Number of processes, W.

    Raises:
        ValueError: If the chunk size does not divide the batch, or is less than the number of
            processes.
    """

    batch_size: int
    micro_batch: int | None = None
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.chunk:
            raise ValueError(
                f"{option('micro_batch')} {self.micro_batch} does not divide "
                f"{option('batch_size')} {self.batch_size}"
            )
        if self.chunk < self.world_size:
            name = "batch_size" if self.micro_batch is None else "micro_batch"
            raise ValueError(
                f"{option(name)} {self.chunk} is less than the {self.world_size} processes"
            )

    @property
    def chunk(self) -> int:
        """Images in a chunk over all processes, M."""
        return self.batch_size if self.micro_batch is None else self.micro_batch

    @property
    def places(self) -> Tensor:
        """Indices of this process's images in the global batch, chunk after chunk."""
        chunks = torch.arange(self.batch_size).view(-1, self.chunk)
        first, end = (self.chunk * r // self.world_size for r in (self.rank, self.rank + 1))
        return chunks[:, first:end].flatten()

    def chunks(self, rows: Tensor) -> list[slice]:
        """Return the slice of each chunk in a `Batch` with these ``rows``."""
        images = len(self.places)
        size = images * self.chunk // self.batch_size
        ends = torch.searchsorted(rows, torch.arange(0, images + 1, size)).tolist()
        return [slice(*pair) for pair in pairwise(ends)]


def check_one_batch(num_images: int, local: BatchShard) -> None:
    """Raise ValueError if a data set is smaller than one global batch."""
    if local.batch_size > num_images:
        raise ValueError(
            f"{option('batch_size')} {local.batch_size:,} is more than the {num_images:,} images "
            f"of the data set: give {f'{num_images} or less, or ' * (num_images > 1)}more images"
        )


class EpochBatches:
    """Indices of this process's part of every global batch of an epoch.

    Every image comes once an epoch; the last, incomplete batch is dropped. The global batches do
    not depend on the number of processes.

    Args:
        images: Number of images in the data set.
        local: This process's part of every batch.
        seed: Seed of the run.

    Attributes:
        epoch: Epoch of the next iteration; the caller sets it.
        first: First batch of the next iteration, when resuming within an epoch.

    Raises:
        ValueError: If the data set is smaller than one batch.
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
        images: Data set that returns a list of images for a list of indices.
        batches: Order of the images.
        channels: Number of channels.
        workers: Number of processes that decode; 0 decodes in this one.
        pin_memory: Whether workers' batches come in pinned memory.
    """
    return DataLoader(
        images,
        batch_sampler=batches,
        collate_fn=partial(collate, channels=channels),
        num_workers=workers,
        multiprocessing_context=start_method(workers),
        persistent_workers=workers > 0,
        pin_memory=pin_memory and workers > 0,
        worker_init_fn=_ignore_interrupt,
    )


def _ignore_interrupt(worker: int) -> None:
    """Leave Ctrl-C, which the terminal sends to all, to the main process: it finishes its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

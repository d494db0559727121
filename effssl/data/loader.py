"""Batches of decoded images whose order depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from effssl.data.sources import Source
from effssl.seeding import seeded_generator


class DecodedImages(Dataset):
    """The images of a source as uint8 tensors, (C, H, W) each."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source.dataset)

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        images = self.source.dataset[indices][self.source.image_column]
        return [torch.from_numpy(_channels_first(np.array(image))) for image in images]


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def pad_images(images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack images of any sizes.

    Returns:
        The images, padded with zeros at the bottom and right to the largest height and width,
        (N, C, H, W), and the height and width of each, (N, 2).
    """
    sizes = torch.tensor([image.shape[1:] for image in images])
    if (sizes == sizes[0]).all():
        return torch.stack(images), sizes
    height, width = sizes.max(0).values.tolist()
    batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return batch, sizes


class EpochBatches:
    """Indices of this process's part of every global batch of an epoch.

    Every image comes once an epoch, but for the last, incomplete batch, which is dropped. The
    global batches do not depend on the number of processes; process r of W takes the images from
    B r / W to B (r + 1) / W of each.

    Args:
        n: Images in the data set.
        batch_size: Global batch, B.
        seed: Seed of the run.
        rank: This process, r.
        world_size: Processes, W.

    Attributes:
        epoch: Epoch whose order the next iteration follows; set it before.
        first: Batch of the epoch to begin with, when resuming within one.

    Raises:
        ValueError: If there is not one whole batch, or not one image a process.
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size > n:
            raise ValueError(f"batch_size {batch_size} is more than the {n} images of the data set")
        if batch_size < world_size:
            raise ValueError(f"batch_size {batch_size} is less than the {world_size} processes")
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.local = slice(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return self.n // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        generator = seeded_generator(self.seed, "order", self.epoch)
        order = torch.randperm(self.n, generator=generator)
        for batch in range(self.first, len(self)):
            start = batch * self.batch_size
            yield order[start : start + self.batch_size][self.local].tolist()


def image_loader(source: Source, batches: EpochBatches, workers: int) -> DataLoader:
    """Decode batches of images, in worker processes if any.

    Yields:
        Padded uint8 images and their sizes, as `pad_images` gives them.
    """
    return DataLoader(
        DecodedImages(source),
        batch_sampler=batches,
        collate_fn=pad_images,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )

"""From a configuration to batches of images: streamed, out of the cache, or decoded every epoch."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch

from effssl.data._cache import cache_images
from effssl.data._cached_images import CachedBatches
from effssl.data._loader import (
    Batch,
    BatchShard,
    DecodedImages,
    EpochBatches,
    available_cores,
    decode_size,
    image_loader,
)
from effssl.data._stream import StreamBatches
from effssl.data.sources import Source
from effssl.training.config import PretrainConfig

_MOST_WORKERS = 8


def create_batches(
    config: PretrainConfig, source: Source, rank: int, world_size: int
) -> EpochBatches | StreamBatches:
    """The order of the images of a run.

    Raises:
        ValueError: If the images do not fill one batch, or a batch does not reach every process.
    """
    local = BatchShard(config.batch_size, config.micro_batch, rank, world_size)
    if source.streaming:
        side, threads = decode_size(config.img_size), _workers(config)
        return StreamBatches(source, local, config.seed, short_side=side, threads=threads)
    return EpochBatches(source.num_images, local, config.seed)


def create_loader(
    config: PretrainConfig,
    source: Source,
    batches: EpochBatches | StreamBatches,
    device: torch.device,
) -> Iterable[Batch]:
    """Load the batches of one epoch an iteration; decode all images before if they are cached.

    Raises:
        ValueError: If more than 1 % of the images turn out to be broken.
    """
    if source.streaming:
        return batches
    workers = _workers(config)
    images = cache_images(
        source, decode_size(config.img_size), max_bytes=1e9 * config.cache_gb, workers=workers
    )
    on_gpu = device.type == "cuda"
    if images is None:
        images = DecodedImages(source, decode_size(config.img_size))
    # fp64 scales the pixels of a batch, of which the whole data set would be too much
    elif on_gpu and config.precision != "fp64" and images.to_device(device):
        return CachedBatches(images, batches)
    elif not on_gpu:
        workers = 0  # reading memory needs no help
    return image_loader(images, batches, config.in_chans, workers, pin_memory=on_gpu)


def _workers(config: PretrainConfig) -> int:
    if config.workers is not None:
        return config.workers
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(_MOST_WORKERS, max(1, available_cores() // processes))

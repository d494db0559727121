"""Batches of a run: streamed, read from the cache, or decoded every epoch."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from effssl.data._broken import MAX_BROKEN
from effssl.data._cache import cache_images
from effssl.data._cached_images import CachedBatches
from effssl.data._constant import CountedBatches
from effssl.data._loader import Batch, BatchShard, DecodedImages, EpochBatches, image_loader
from effssl.data._stream import StreamBatches
from effssl.data.sources import Source


def create_batches(
    source: Source, shard: BatchShard, seed: int, *, short_side: int, workers: int
) -> EpochBatches | StreamBatches:
    """Return the order of the images of a run.

    Args:
        source: Images.
        shard: This process's part of every batch.
        seed: Seed of the run.
        short_side: Size that streamed images are decoded to, see `decode_size`.
        workers: Number of threads that decode a stream.

    Raises:
        ValueError: If the images do not fill one batch.
    """
    if source.streaming:
        return StreamBatches(source, shard, seed, short_side=short_side, threads=workers)
    return EpochBatches(source.num_images, shard, seed)


def create_loader(
    source: Source,
    batches: EpochBatches | StreamBatches,
    device: torch.device,
    *,
    short_side: int,
    workers: int,
    cache_bytes: float,
    max_broken: float = MAX_BROKEN,
    keep_on_gpu: bool = True,
    name: str | None = None,
    digest: str | None = None,
) -> Iterable[Batch]:
    """Return an iterable over the batches of an epoch; fill the cache first if there is one.

    Args:
        source: Images.
        batches: Order of the images, from `create_batches`.
        device: Device of the model.
        short_side: Size that images are decoded to, see `decode_size`.
        workers: Number of processes that decode.
        cache_bytes: Largest size of the decoded data set that is cached.
        max_broken: Largest share of the images that may be broken.
        keep_on_gpu: Whether a cached data set that fits is copied to a GPU as a whole.
        name: Name of the data set, for the cache.
        digest: Digest of the images, if it is known.

    Raises:
        ValueError: If more of the images turn out to be broken.
    """
    if source.streaming:
        return CountedBatches(batches, len(batches))
    images = cache_images(
        source,
        short_side,
        max_bytes=cache_bytes,
        max_broken=max_broken,
        workers=workers,
        name=name,
        digest=digest,
    )
    on_gpu = device.type == "cuda"
    if images is None:
        images = DecodedImages(source, short_side)
    elif on_gpu and keep_on_gpu and images.to_device(device):
        return CachedBatches(images, batches)
    elif not on_gpu:
        workers = 0  # reading memory needs no help
    loader = image_loader(images, batches, source.in_chans, workers, pin_memory=on_gpu)
    return CountedBatches(loader, len(batches)) if isinstance(images, DecodedImages) else loader

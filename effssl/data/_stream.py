"""Resumable batches of a stream, the same global batches for any number of processes."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice

import numpy as np
from torch import Tensor

from effssl.data._loader import Batch, BatchShard, check_one_batch, collate, decode_or_broken
from effssl.data._pixels import BrokenImage
from effssl.data.sources import Source
from effssl.progress import Stage
from effssl.seeding import derived_seed

logger = logging.getLogger(__name__)

SHUFFLE_IMAGES, SHUFFLE_BYTES = 4096, 2**30  # limits of the buffer, which holds undecoded images
_OPEN_SHARDS, _READ = 8, 64  # shards read at a time, and images read at a time from each
_AHEAD = 2  # batches read and decoded ahead of training


class StreamBatches:
    """This process's part of every global batch of an epoch of a stream.

    An epoch opens the shards in random order, takes images from eight of them in turn, and shuffles
    these, undecoded, in a buffer of 4,096 images or 1 GiB.

    Every process reads the whole stream and decodes only its own images. W processes therefore read
    the stream W times, but the global batches equal those of one process, however uneven the
    shards, and no process runs out of images before another. Resuming within an epoch reads its
    beginning again, without decoding.

    Memory does not grow with the number of shards. But pyarrow reads ahead in each open shard, so
    that up to eight whole parquet files are held.

    Args:
        source: Streamed images. If their number is unknown, they are counted by reading them once.
        local: This process's part of every batch.
        seed: Seed of the run.
        short_side: Most pixels of the shorter side; larger images are shrunk.
        threads: Number of threads that decode; 0 reads and decodes each batch on demand.

    Attributes:
        epoch: Epoch of the next iteration; the caller sets it.
        first: First batch of the next iteration, when resuming within an epoch.

    Raises:
        ValueError: If the stream is smaller than one batch.
    """

    def __init__(
        self,
        source: Source,
        local: BatchShard,
        seed: int,
        *,
        short_side: int,
        threads: int = 0,
    ) -> None:
        self.images = source.num_images
        if self.images is None:
            self.images = _count(source)
        check_one_batch(self.images, local)
        self.source, self.local = source, local
        self.short_side, self.threads = short_side, threads
        self.seed = seed
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return self.images // self.local.batch_size

    def __iter__(self) -> Iterator[Batch]:
        batches = self._records()
        if not self.threads:
            for records in batches:
                yield self._collate([self._decode(record) for record in records])
            return
        # threads, not processes: a fork while pyarrow reads ahead may hang, and most of the work of
        # reading and decoding releases the GIL
        with ThreadPoolExecutor(self.threads) as decoders, ThreadPoolExecutor(1) as reader:

            def read() -> list[Future] | None:
                records = next(batches, None)
                return records and [decoders.submit(self._decode, record) for record in records]

            ahead = deque(reader.submit(read) for _ in range(_AHEAD))
            while images := ahead.popleft().result():
                ahead.append(reader.submit(read))
                yield self._collate([image.result() for image in images])

    def _records(self) -> Iterator[list[tuple[str, object]]]:
        """Yield this process's images of each global batch, undecoded, and where each was read."""
        draw = random.Random(derived_seed(self.seed, "order", self.epoch))
        batch_size, places = self.local.batch_size, self.local.places.tolist()
        stream = _shuffled(self._interleaved(draw), draw)
        if self.first:
            started, skipped = time.perf_counter(), self.first * batch_size
            with Stage("read the first images of the epoch again", skipped) as stage:
                for _ in islice(stream, skipped):
                    stage.update()
            logger.info(
                "read the first %s images of the epoch again, %.1f s",
                f"{skipped:,}",
                time.perf_counter() - started,
            )
        for batch in range(self.first, len(self)):
            records = list(islice(stream, batch_size))
            if len(records) < batch_size:
                raise ValueError(
                    f"the stream ended after {batch * batch_size + len(records):,} images of "
                    f"the {self.images:,} that it announced"
                )
            yield [records[place] for place in places]

    def _interleaved(self, draw: random.Random) -> Iterator[tuple[str, object]]:
        """Yield the images of all shards, from a few random shards at a time in turn."""
        # IterableDataset.shuffle does the same, but takes 150 us an image
        shards = self.source.dataset.num_shards
        waiting = draw.sample(range(shards), shards)
        readers: list[Iterator] = []
        while waiting or readers:
            while waiting and len(readers) < _OPEN_SHARDS:
                readers.append(self._read(waiting.pop()))
            for reader in tuple(readers):
                try:
                    yield next(reader)
                except StopIteration:
                    readers.remove(reader)

    def _read(self, shard: int) -> Iterator[tuple[str, object]]:
        dataset, row = self.source.dataset, count()
        for rows in dataset.shard(dataset.num_shards, shard).iter(_READ):
            for value in rows[self.source.image_column]:
                yield f"shard {shard}, row {next(row)}", value

    def _decode(self, record: tuple[str, object]) -> Tensor | BrokenImage:
        place, value = record
        return decode_or_broken(value, place, self.source, self.short_side)

    def _collate(self, images: list[Tensor | BrokenImage]) -> Batch:
        return collate(images, self.source.in_chans)


def _count(source: Source) -> int:
    with Stage("count the stream") as stage:
        for rows in source.dataset.iter(_READ):
            stage.update(len(rows[source.image_column]))
    return stage.done


def _shuffled(
    records: Iterator[tuple[str, object]], draw: random.Random
) -> Iterator[tuple[str, object]]:
    """Shuffle records in a buffer; whenever it is over its limits, random records leave it."""
    buffer, held = [], 0
    for record in records:
        buffer.append(record)
        held += _bytes(record[1])
        while len(buffer) > SHUFFLE_IMAGES or held > SHUFFLE_BYTES:
            place = draw.randrange(len(buffer))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            leaving = buffer.pop()
            held -= _bytes(leaving[1])
            yield leaving
    draw.shuffle(buffer)
    yield from buffer


def _bytes(value: object) -> int:
    """Return the bytes that an undecoded cell holds; a path counts as none."""
    if isinstance(value, dict):
        return len(value["bytes"] or b"")
    return value.nbytes if isinstance(value, np.ndarray) else 0

"""Batches of a stream: the same global batches for any number of processes, resumable."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice

import numpy as np
from tqdm import tqdm

from effssl.data._loader import Batch, BatchShard, check_one_batch, collate, decode_or_broken
from effssl.data.sources import Source
from effssl.seeding import derived_seed

logger = logging.getLogger(__name__)

SHUFFLE_IMAGES, SHUFFLE_BYTES = 4096, 2**30  # the buffer, not decoded; whichever is full first
_OPEN_SHARDS, _READ = 8, 64  # shards that are read at a time, and images at a time of each
_AHEAD = 2  # batches that are read and decoded while another is trained on


class StreamBatches:
    """This process's part of every global batch of an epoch of a stream.

    An epoch takes images from several shards in turn, the shards in random order, and shuffles them
    in a buffer of 4,096 images or 1 GiB, not decoded. Every process reads the whole stream and
    decodes its own images only. That costs W times the reading for W processes; but the global
    batches are those of one process, however uneven the shards, and no process runs out of images
    before another. To resume within an epoch its beginning is read again, without being decoded.
    Memory does not grow with the number of shards, but pyarrow reads ahead in each of the eight
    that are open: of parquet, up to eight whole files are held.

    Args:
        source: Streamed images. If their number is not known they are counted by reading them once.
        local: This process's part of every batch.
        seed: Seed of the run.
        short_side: Larger images are shrunk until their shorter side has so many pixels.
        threads: Threads that decode; 0 reads and decodes when a batch is asked for.

    Attributes:
        epoch: Epoch whose order the next iteration follows; set it before.
        first: Batch of the epoch to begin with, when resuming within one.

    Raises:
        ValueError: If there is not one whole batch.
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
            reads = tqdm(source.dataset.iter(_READ), desc="count the stream", disable=None)
            self.images = sum(len(rows[source.image_column]) for rows in reads)
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
        # threads and not processes: a fork while pyarrow reads ahead may never return, and both
        # reading and decoding run outside of Python for most of their time
        with ThreadPoolExecutor(self.threads) as decoders, ThreadPoolExecutor(1) as reader:

            def read() -> list[Future] | None:
                records = next(batches, None)
                return records and [decoders.submit(self._decode, record) for record in records]

            ahead = deque(reader.submit(read) for _ in range(_AHEAD))
            while images := ahead.popleft().result():
                ahead.append(reader.submit(read))
                yield self._collate([image.result() for image in images])

    def _records(self) -> Iterator[list[tuple[str, object]]]:
        """This process's images of each global batch, with their places and not decoded."""
        draw = random.Random(derived_seed(self.seed, "order", self.epoch))
        batch_size, places = self.local.batch_size, self.local.places.tolist()
        stream = _shuffled(self._interleaved(draw), draw)
        if self.first:
            started, skipped = time.perf_counter(), self.first * batch_size
            next(islice(stream, skipped - 1, None), None)
            logger.info(
                "read the first %s images of the epoch again, %.1f s",
                *(f"{skipped:,}", time.perf_counter() - started),
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
        """The images of all shards in random order, some shards at a time, one image of each."""
        # IterableDataset.shuffle does the same, but it takes 150 us an image
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

    def _decode(self, record: tuple[str, object]):
        place, value = record
        return decode_or_broken(value, place, self.source.in_chans, self.short_side)

    def _collate(self, images) -> Batch:
        return collate(images, self.source.in_chans)


def _shuffled(
    records: Iterator[tuple[str, object]], draw: random.Random
) -> Iterator[tuple[str, object]]:
    """Fill a buffer; whenever it is too full, random records leave it."""
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


def _bytes(value) -> int:
    """Of a cell as it is held: a file's bytes, an array's, and about none of a path."""
    if isinstance(value, dict):
        return len(value["bytes"] or b"")
    return value.nbytes if isinstance(value, np.ndarray) else 0

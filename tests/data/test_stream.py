"""Streams: the global batches of one process for any number, resumable, with uneven shards."""

import random
from io import BytesIO

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, Image
from PIL import Image as PILImage

from effssl.data import _stream as stream
from effssl.data import load_source
from effssl.data._loader import BatchShard
from effssl.data._stream import StreamBatches


@pytest.fixture
def uneven_shards(tmp_path):
    """50 images, image i filled with the value i, in shards of 23, 2, 17 and 8."""
    first = 0
    for shard, rows in enumerate((23, 2, 17, 8)):
        values = range(first, first + rows)
        pixels = [PILImage.fromarray(np.full((6, 5 + i % 3), i, np.uint8)) for i in values]
        data = Dataset.from_dict({"image": pixels}, features=Features({"image": Image()}))
        data.to_parquet(tmp_path / f"train-{shard}.parquet")
        first += rows
    return load_source(f"{tmp_path}/*.parquet", in_chans=1, streaming=True)


def seen(batches):
    return [batch.pixels[batch.starts].tolist() for batch in batches]


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_the_global_batches_of_one(uneven_shards, world_size, threads):
    options = {"short_side": 6, "threads": threads}
    whole = seen(StreamBatches(uneven_shards, BatchShard(8), 3, short_side=6))
    parts = [
        seen(StreamBatches(uneven_shards, BatchShard(8, None, rank, world_size), 3, **options))
        for rank in range(world_size)
    ]
    assert [sum((part[i] for part in parts), []) for i in range(len(whole))] == whole
    assert len(whole) == 6 and len({i for batch in whole for i in batch}) == 48


def test_the_order_depends_on_the_seed_and_the_epoch_alone(uneven_shards):
    batches = StreamBatches(uneven_shards, BatchShard(8), 3, short_side=6)
    first = seen(batches)
    batches.epoch = 1
    second = seen(batches)
    batches.epoch = 0
    assert seen(batches) == first != second
    assert seen(StreamBatches(uneven_shards, BatchShard(8), 4, short_side=6)) != first
    flat = sum(first, [])
    assert flat != sorted(flat)


@pytest.mark.parametrize("threads", [0, 1])
def test_an_epoch_can_begin_in_its_middle(uneven_shards, threads):
    batches = StreamBatches(uneven_shards, BatchShard(8), 3, short_side=6, threads=threads)
    batches.epoch = 2
    whole = seen(batches)
    batches.first = 4
    assert seen(batches) == whole[4:]


def test_images_whose_number_is_not_known_are_counted(uneven_shards):
    source = type(uneven_shards)(uneven_shards.dataset, "image", None, 1, None)
    assert len(StreamBatches(source, BatchShard(8), 3, short_side=6)) == 6


def test_a_stream_that_ends_early_is_an_error(uneven_shards):
    source = type(uneven_shards)(uneven_shards.dataset, "image", None, 1, 64)
    with pytest.raises(ValueError, match="ended after 50 images of the 64"):
        seen(StreamBatches(source, BatchShard(8), 3, short_side=6))


def test_a_broken_image_leaves_its_batch_smaller_by_one():
    def rows():
        for i in range(16):
            pixels = np.full((4, 4), i).tolist()
            yield {"image": [[999.0]] if i == 5 else pixels}

    data = datasets.IterableDataset.from_generator(rows)
    source = type(load_source(in_chans=1))(data, "image", None, 1, 16)
    counts = [len(batch.sizes) for batch in StreamBatches(source, BatchShard(8), 0, short_side=6)]
    assert sorted(counts) == [7, 8]


def test_a_broken_image_without_a_path_has_the_same_name_in_every_epoch(tmp_path):
    rows = [encoded(i) for i in range(16)]
    rows[5] = rows[5][:20]
    Dataset.from_dict({"image": rows}).to_parquet(tmp_path / "train.parquet")
    batches = StreamBatches(
        load_source(f"{tmp_path}/*.parquet", streaming=True), BatchShard(8), 0, short_side=6
    )
    named = set()
    for batches.epoch in range(4):
        named |= {message for batch in batches for message in batch.broken}
    (name,) = named
    assert name.startswith("shard 0, row 5: ")


def encoded(value):
    file = BytesIO()
    PILImage.new("RGB", (6, 6), (value,) * 3).save(file, "PNG")
    return file.getvalue()


def test_the_shuffle_buffer_is_bounded_by_images_and_by_bytes(monkeypatch):
    monkeypatch.setattr(stream, "SHUFFLE_IMAGES", 10)
    monkeypatch.setattr(stream, "SHUFFLE_BYTES", 4000)
    taken = 0

    def records(size):
        nonlocal taken
        for i in range(100):
            taken = i + 1
            yield f"row {i}", {"bytes": b"x" * size, "path": None}

    for size, most in {10: 10, 1000: 4, 9000: 0}.items():
        out = stream._shuffled(records(size), random.Random(0))
        order = []
        for name, _ in out:
            order.append(name)
            if taken < 100:
                assert taken - len(order) <= most
        assert sorted(order) == sorted(f"row {i}" for i in range(100))

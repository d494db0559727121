"""Batches: every image once an epoch, the same global batches for any number of processes."""

import numpy as np
import pytest
import torch

from effssl.data import BrokenImage, decode_image, load_source
from effssl.data._loader import BatchShard, DecodedImages, EpochBatches, collate, image_loader


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_the_global_batches_of_one(world_size):
    whole = list(EpochBatches(50, BatchShard(8), seed=3))
    local = [BatchShard(8, None, rank, world_size) for rank in range(world_size)]
    parts = [list(EpochBatches(50, part, 3)) for part in local]
    joined = [sum((part[i] for part in parts), []) for i in range(len(whole))]
    assert joined == whole and len(whole) == 6
    assert len({i for batch in whole for i in batch}) == 48


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    batches = EpochBatches(50, BatchShard(8), seed=3)
    first = list(batches)
    batches.epoch = 1
    second = list(batches)
    batches.first = 4
    assert list(batches) == second[4:]
    batches.epoch, batches.first = 0, 0
    assert list(batches) == first != second
    assert list(EpochBatches(50, BatchShard(8), seed=4)) != first


def test_images_of_mixed_sizes_are_packed_without_padding():
    small, large = torch.ones(1, 2, 5).byte(), torch.full((1, 4, 3), 2).byte()
    batch = collate([small, large], 1)
    assert batch.sizes.tolist() == [[2, 5], [4, 3]] and batch.starts.tolist() == [0, 10]
    assert batch.pixels.shape == (22,)
    assert torch.equal(batch.image(0), small) and torch.equal(batch.image(1), large)


def test_broken_images_leave_gaps_in_the_rows():
    image = torch.ones(3, 2, 2).byte()
    batch = collate([image, BrokenImage("a.png: torn"), image], 3)
    assert batch.rows.tolist() == [0, 2] and len(batch.sizes) == len(batch.starts) == 2
    assert batch.broken == ["a.png: torn"]


def test_where_no_image_can_be_read_the_batch_is_empty():
    batch = collate([BrokenImage("a.png: torn")], 5)
    assert batch.pixels.shape == batch.starts.shape == (0,) and batch.sizes.shape == (0, 2)
    assert batch.rows.tolist() == [] and batch.channels == 5


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_gives_the_pixels_of_the_source(image_folder, workers):
    source = load_source(str(image_folder))
    batches = EpochBatches(24, BatchShard(8), seed=0)
    loader = image_loader(DecodedImages(source, 100), batches, 3, workers)
    for epoch in (0, 1):
        batches.epoch = epoch
        loaded = list(loader)
        assert len(loaded) == 3
        for batch, indices in zip(loaded, batches, strict=True):
            assert batch.rows.tolist() == list(range(8))
            values = source.dataset[indices]["image"]
            assert len(batch.sizes) == len(values)
            for place, value in enumerate(values):
                assert np.array_equal(batch.image(place), decode_image(value, 3))


def test_large_images_are_shrunk_and_small_ones_kept(image_folder):
    images = DecodedImages(load_source(str(image_folder)), short_side=22)
    sides = {min(image.shape[1:]) for image in images.__getitems__(list(range(24)))}
    assert sides == {20, 21, 22}  # they have 20 to 24


def test_a_batch_that_cannot_be_filled_is_refused():
    with pytest.raises(ValueError, match="64 is more than the 50 .*give 50 or less"):
        EpochBatches(50, BatchShard(64), seed=0)
    with pytest.raises(ValueError, match="the 1 images of the data set: give more images$"):
        EpochBatches(1, BatchShard(64), seed=0)  # a batch of one is refused too
    with pytest.raises(ValueError, match="batch_size 2 is less than the 3 processes"):
        BatchShard(2, world_size=3)


def test_chunks_hold_the_same_images_for_any_number_of_processes():
    for world_size in (1, 2, 3):
        chunks = [set() for _ in range(4)]
        for rank in range(world_size):
            local = BatchShard(20, 5, rank, world_size)
            places, rows = local.places, torch.arange(len(local.places))
            for chunk, part in zip(chunks, local.chunks(rows), strict=True):
                chunk |= set(places[part].tolist())
        assert chunks == [set(range(first, first + 5)) for first in range(0, 20, 5)]


def test_broken_images_make_their_chunk_smaller_and_maybe_empty():
    local = BatchShard(12, 4)
    assert local.chunks(torch.tensor([0, 3, 8, 9, 11])) == [slice(0, 2), slice(2, 2), slice(2, 5)]


def test_chunks_that_do_not_make_up_the_batch_are_refused():
    with pytest.raises(ValueError, match="micro_batch 5 does not divide batch_size 12"):
        BatchShard(12, 5)
    with pytest.raises(ValueError, match="micro_batch 2 is less than the 3 processes"):
        BatchShard(12, 2, world_size=3)

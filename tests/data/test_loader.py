"""Batches: every image once an epoch, the same global batches for any number of processes."""

import numpy as np
import pytest
import torch

from effssl.data import BrokenImage, decode_image, load_source
from effssl.data.loader import DecodedImages, EpochBatches, collate, image_loader


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_the_global_batches_of_one(world_size):
    whole = list(EpochBatches(50, 8, seed=3))
    parts = [list(EpochBatches(50, 8, 3, rank, world_size)) for rank in range(world_size)]
    joined = [sum((part[i] for part in parts), []) for i in range(len(whole))]
    assert joined == whole and len(whole) == 6
    assert len({i for batch in whole for i in batch}) == 48


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    batches = EpochBatches(50, 8, seed=3)
    first = list(batches)
    batches.epoch = 1
    second = list(batches)
    batches.first = 4
    assert list(batches) == second[4:]
    batches.epoch, batches.first = 0, 0
    assert list(batches) == first != second
    assert list(EpochBatches(50, 8, seed=4)) != first


def test_images_of_mixed_sizes_are_padded_at_the_bottom_and_right():
    small, large = torch.ones(1, 2, 5).byte(), torch.full((1, 4, 3), 2).byte()
    batch = collate([small, large], 1)
    assert batch.images.shape == (2, 1, 4, 5) and batch.sizes.tolist() == [[2, 5], [4, 3]]
    assert torch.equal(batch.images[0, :, :2], small)
    assert torch.equal(batch.images[1, :, :, :3], large)
    assert batch.images[0, :, 2:].sum() == 0 and batch.images[1, :, :, 3:].sum() == 0


def test_broken_images_leave_gaps_in_the_rows():
    image = torch.ones(3, 2, 2).byte()
    batch = collate([image, BrokenImage("a.png: torn"), image], 3)
    assert batch.rows.tolist() == [0, 2] and batch.count == len(batch.images) == 2
    assert batch.broken == ["a.png: torn"]


def test_where_no_image_can_be_read_a_black_one_stands_in_and_does_not_count():
    batch = collate([BrokenImage("a.png: torn")], 5)
    assert batch.images.shape == (1, 5, 1, 1) and batch.count == 0
    assert batch.rows.tolist() == [0]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_gives_the_pixels_of_the_source(image_folder, workers):
    source = load_source(str(image_folder))
    batches = EpochBatches(24, 8, seed=0)
    loader = image_loader(DecodedImages(source, 100), batches, 3, workers)
    for epoch in (0, 1):
        batches.epoch = epoch
        loaded = list(loader)
        assert len(loaded) == 3
        for batch, indices in zip(loaded, batches, strict=True):
            assert batch.rows.tolist() == list(range(8))
            values = source.dataset[indices]["image"]
            for image, size, value in zip(batch.images, batch.sizes, values, strict=True):
                height, width = size.tolist()
                assert np.array_equal(image[:, :height, :width], decode_image(value, 3))


def test_large_images_are_shrunk_and_small_ones_kept(image_folder):
    images = DecodedImages(load_source(str(image_folder)), short_side=22)
    sides = {min(image.shape[1:]) for image in images.__getitems__(list(range(24)))}
    assert sides == {20, 21, 22}  # they have 20 to 24


def test_a_batch_that_cannot_be_filled_is_refused():
    with pytest.raises(ValueError, match="batch_size 64 is more than the 50 images"):
        EpochBatches(50, 64, seed=0)
    with pytest.raises(ValueError, match="batch_size 2 is less than the 3 processes"):
        EpochBatches(50, 2, 0, 0, 3)

"""Batches: every image once an epoch, the same global batches for any number of processes."""

import pytest
import torch

from effssl.data import load_source
from effssl.data.loader import EpochBatches, image_loader, pad_images


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
    batch, sizes = pad_images([small, large])
    assert batch.shape == (2, 1, 4, 5) and sizes.tolist() == [[2, 5], [4, 3]]
    assert torch.equal(batch[0, :, :2], small) and torch.equal(batch[1, :, :, :3], large)
    assert batch[0, :, 2:].sum() == 0 and batch[1, :, :, 3:].sum() == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_gives_the_pixels_of_the_source(image_folder, workers):
    source = load_source(str(image_folder))
    batches = EpochBatches(24, 8, seed=0)
    loaded = list(image_loader(source, batches, workers))
    for (images, sizes), indices in zip(loaded, batches, strict=True):
        for image, (height, width), index in zip(images, sizes.tolist(), indices, strict=True):
            pixels = source.dataset[index]["image"]
            assert pixels.size == (width, height)
            assert image[:, height - 1, width - 1].tolist() == list(
                pixels.getpixel((width - 1, height - 1))
            )


def test_a_batch_that_cannot_be_filled_is_refused():
    with pytest.raises(ValueError, match="batch_size 64 is more than the 50 images"):
        EpochBatches(50, 64, seed=0)
    with pytest.raises(ValueError, match="batch_size 2 is less than the 3 processes"):
        EpochBatches(50, 2, 0, 0, 3)

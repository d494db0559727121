"""The memory of a batch grows with its pixels, not with its longest sides."""

import numpy as np
import pytest
import torch
from PIL import Image

from effssl.data import _cache, load_source
from effssl.data._loader import BatchShard, DecodedImages, EpochBatches, collate, image_loader

SIDE = 64
PHOTOS, PANORAMA, SCROLL = (60, 80), (60, 1860), (1860, 60)  # height, width


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A panorama and a scroll among 30 photos."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    sizes = [PHOTOS] * 10 + [PANORAMA] + [PHOTOS] * 10 + [SCROLL] + [PHOTOS] * 10
    for i, size in enumerate(sizes):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return load_source(str(folder))


def pixels_of(sizes):
    return 3 * sum(height * width for height, width in sizes)


def test_a_batch_has_the_bytes_of_its_pixels(source):
    items = DecodedImages(source, SIDE).__getitems__(list(range(32)))
    batch = collate(items, 3)
    expected = pixels_of([PHOTOS] * 30 + [PANORAMA, SCROLL])
    assert batch.pixels.nbytes == batch.pixels.untyped_storage().nbytes() == expected
    padded = 32 * 3 * 1860 * 1860
    assert padded > 200 * expected  # what a batch of one height and width would take
    for place, item in enumerate(items):
        assert torch.equal(batch.image(place), item)
    rest = [tensor.nbytes for tensor in (batch.starts, batch.sizes, batch.rows)]
    assert sum(rest) == 32 * 8 * 4


def test_the_batches_of_a_loader_have_the_bytes_of_their_pixels(source, tmp_path, monkeypatch):
    monkeypatch.setattr(_cache, "HF_HOME", str(tmp_path))
    cached = _cache.cache_images(source, SIDE, max_bytes=1e9, workers=0)
    for images in (cached, DecodedImages(source, SIDE)):
        batches = EpochBatches(32, BatchShard(16), seed=0)
        total = 0
        for batch in image_loader(images, batches, 3, workers=0):
            assert batch.pixels.nbytes == 3 * int(batch.sizes.prod(1).sum())
            total += batch.pixels.nbytes
        assert total == pixels_of([PHOTOS] * 30 + [PANORAMA, SCROLL])


def test_the_cache_has_the_bytes_of_its_pixels(source, tmp_path, monkeypatch):
    monkeypatch.setattr(_cache, "HF_HOME", str(tmp_path))
    _cache.cache_images(source, SIDE, max_bytes=1e9, workers=0)
    (file,) = tmp_path.rglob("pixels.bin")
    assert file.stat().st_size == pixels_of([PHOTOS] * 30 + [PANORAMA, SCROLL])
    assert file.with_name("index.safetensors").stat().st_size < 2000
    _cache.cache_images(source, 30, max_bytes=1e9, workers=0)  # half of each side
    smaller = min(file.stat().st_size for file in tmp_path.rglob("pixels.bin"))
    assert smaller == pixels_of([(30, 40)] * 30 + [(30, 930), (930, 30)])

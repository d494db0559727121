"""Decoded images in one memory-mapped file, shared by the processes of a run and by later runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from effssl.data._broken import check_broken
from effssl.data._decode import BrokenImage, image_size
from effssl.data._loader import Batch, DecodedImages, EpochBatches
from effssl.data.sources import Source

logger = logging.getLogger(__name__)

_FORMAT = 1  # raise it when decoding or the files below change
_BATCH = 64  # images that a worker decodes at a time
_LOOKED_AT = 256  # images whose size is read to estimate the bytes of all


class CachedImages(Dataset):
    """The images of a cache folder.

    The folder holds ``pixels.bin``, the uint8 pixels of the images one after another, (C, H, W)
    each, and ``index.safetensors``, their heights and widths, (n, 2), and the broken ones.

    Args:
        folder: A whole cache folder, made by `cache_images`.

    Attributes:
        broken: What is wrong with each broken image, by its row.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with safe_open(folder / "index.safetensors", "pt") as index:
            self._sizes = index.get_tensor("sizes").numpy()
            metadata = index.metadata()
        self.channels = int(metadata["channels"])
        self.broken = {int(row): why for row, why in json.loads(metadata["broken"]).items()}
        self._ends = np.cumsum(self.channels * self._sizes.prod(1, dtype=np.int64))
        with warnings.catch_warnings():
            # the mapping is read-only and nothing writes to it
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            pixels = np.memmap(folder / "pixels.bin", np.uint8, "r", shape=(self._ends[-1],))
            self.pixels = torch.from_numpy(pixels)

    def __reduce__(self):
        return CachedImages, (self.folder,)  # a worker maps the file itself

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitems__(self, rows: list[int]) -> list[Tensor | BrokenImage]:
        return [self._image(row) for row in rows]

    def _image(self, row: int) -> Tensor | BrokenImage:
        if row in self.broken:
            return BrokenImage(self.broken[row])
        height, width = self._sizes[row].tolist()
        end = int(self._ends[row])
        start = end - self.channels * height * width
        return self.pixels[start:end].view(self.channels, height, width)

    def batch(self, rows: list[int]) -> Batch:
        """The images of these rows where they lie, without a copy of their pixels."""
        broken = [self.broken[row] for row in rows if row in self.broken]
        places = [place for place, row in enumerate(rows) if row not in self.broken]
        whole = [rows[place] for place in places]
        sizes = torch.from_numpy(self._sizes[whole].astype(np.int64)).reshape(-1, 2)
        starts = torch.from_numpy(self._ends[whole]) - self.channels * sizes.prod(1)
        kept = torch.tensor(places, dtype=torch.long)
        return Batch(self.pixels, starts, sizes, kept, broken, self.channels)

    def to_device(self, device: torch.device, share: float = 0.25) -> bool:
        """Copy the pixels to a CUDA device if they take at most a share of its free memory.

        Returns:
            Whether they are there now.
        """
        free, _ = torch.cuda.mem_get_info(device)
        fits = len(self.pixels) <= share * free
        if fits:
            self.pixels = self.pixels.to(device)
        return fits


class CachedBatches:
    """The batches of an epoch, of images that are not copied but stay where they lie.

    Args:
        dataset: The images, on a GPU.
        batches: Their order.
    """

    def __init__(self, dataset: CachedImages, batches: EpochBatches) -> None:
        self.dataset, self.batches = dataset, batches

    def __iter__(self) -> Iterator[Batch]:
        return map(self.dataset.batch, self.batches)


def cache_images(
    source: Source, short_side: int, *, max_bytes: float, workers: int
) -> CachedImages | None:
    """Open the decoded images of a source, decoding them first if no earlier run did.

    Processes that ask for the same images wait for the one that decodes them.

    Args:
        source: Map-style images.
        short_side: Larger images are shrunk until their shorter side has so many pixels.
        max_bytes: Make no cache that is estimated to be larger, or to leave the disk full; one
            that an earlier run made is opened whatever its size, unless this is 0.
        workers: Processes that decode.

    Returns:
        None if there is to be no cache, or it cannot be written.

    Raises:
        ValueError: If more than 1 % of the images are broken.
    """
    if not max_bytes:
        return None
    # HF_HOME is where such data is already expected, and already moved to where there is room
    caches = Path(HF_HOME) / "effssl" / "decoded"
    try:
        caches.mkdir(parents=True, exist_ok=True)
        digest = source.digest(read=False)
        if digest is None:
            if _is_too_large(source, short_side, caches, max_bytes):
                return None  # no earlier run made one, or the digest would be known
            digest = source.digest()
        key = json.dumps([_FORMAT, digest, source.in_chans, short_side])
        folder = caches / hashlib.sha256(key.encode()).hexdigest()[:24]
        with FileLock(f"{folder}.lock"):
            return _open(folder) or _make(source, short_side, folder, max_bytes, workers)
    except (OSError, SafetensorError) as error:
        logger.warning("decoding in every epoch: no cache in %s: %s", caches, error)
        return None


def _open(folder: Path) -> CachedImages | None:
    try:
        return CachedImages(folder)
    except (OSError, ValueError, SafetensorError):  # it is not there, or a power cut tore it
        return None


def _is_too_large(source: Source, short_side: int, caches: Path, max_bytes: float) -> bool:
    needed = _estimate(source, short_side)
    free = shutil.disk_usage(caches).free
    too_large = needed > min(max_bytes, 0.9 * free)
    if too_large:
        logger.info(
            "decoding in every epoch: the decoded images would take about %.1f GB, with %.1f GB "
            "allowed and %.1f GB free on disk",
            *(needed / 1e9, max_bytes / 1e9, free / 1e9),
        )
    return too_large


def _make(
    source: Source, short_side: int, folder: Path, max_bytes: float, workers: int
) -> CachedImages | None:
    if _is_too_large(source, short_side, folder.parent, max_bytes):
        return None
    # decoded to a folder of another name, which gets its own when it is whole; what lies there
    # under the lock was left by a killed run
    partial = folder.with_name(folder.name + ".partial")
    for left in (partial, folder):
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir()
    try:
        _decode(source, short_side, partial, workers)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return CachedImages(folder)


def _estimate(source: Source, short_side: int) -> float:
    """Bytes of the decoded images, from the sizes of some."""
    rows = len(source.dataset)
    areas = []
    for row in range(0, rows, 1 + rows // _LOOKED_AT):
        value = source.dataset[row][source.image_column]
        try:
            height, width = image_size(value, source.in_chans)
        except BrokenImage:
            continue
        scale = min(1.0, short_side / min(height, width))
        areas.append(height * width * scale**2)
    return rows * source.in_chans * float(np.mean(areas)) if areas else 0.0


def _decode(source: Source, short_side: int, folder: Path, workers: int) -> None:
    rows = len(source.dataset)
    logger.info("decoding %s images once, to %s", f"{rows:,}", folder.parent)
    started = time.perf_counter()
    loader = DataLoader(
        DecodedImages(source, short_side),
        _BATCH,
        collate_fn=_pack,
        num_workers=workers if rows > 10 * _BATCH else 0,
    )
    sizes: list[tuple[int, int]] = []
    broken: dict[int, str] = {}
    with (
        open(folder / "pixels.bin", "wb") as file,
        tqdm(total=rows, desc="decode", unit="image", disable=not sys.stderr.isatty()) as bar,
    ):
        for pixels, batch_sizes, batch_broken in loader:
            broken |= {len(sizes) + row: why for row, why in batch_broken.items()}
            check_broken(broken.values(), rows)
            sizes += batch_sizes
            file.write(pixels.numpy())
            bar.update(len(batch_sizes))
        file.flush()
        os.fsync(file.fileno())  # or the renamed folder could outlive a power cut without them
    metadata = {"channels": str(source.in_chans), "broken": json.dumps(broken)}
    index = {"sizes": torch.tensor(sizes, dtype=torch.int32)}
    save_file(index, folder / "index.safetensors", metadata)
    logger.info("decoded %s images in %.1f s", f"{rows:,}", time.perf_counter() - started)


def _pack(
    items: list[Tensor | BrokenImage],
) -> tuple[Tensor, list[tuple[int, int]], dict[int, str]]:
    """All pixels in one tensor, which is one file descriptor to pass from a worker and not many."""
    broken = {row: str(item) for row, item in enumerate(items) if isinstance(item, BrokenImage)}
    images = [item for item in items if isinstance(item, Tensor)]
    sizes = [(0, 0) if row in broken else tuple(item.shape[1:]) for row, item in enumerate(items)]
    flat = torch.cat([image.flatten() for image in images]) if images else torch.empty(0).byte()
    return flat, sizes, broken

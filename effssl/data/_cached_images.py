"""Decoded images in one memory-mapped file, and their batches."""

from __future__ import annotations

import contextlib
import os
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from effssl.data._loader import Batch, EpochBatches
from effssl.data._locks import held_open
from effssl.data._pixel_check import Index, check_pixels
from effssl.data._pixels import BrokenImage
from effssl.foreign import open_regular

INDEX = "index.safetensors"
"""Name of the file in a cache folder that stays open while the folder is in use."""
PIXELS = "pixels.bin"
"""Name of the file with the pixels."""
_GPU_SHARE = 0.25  # most of a device's free memory that pixels may take


class CachedImages(Dataset):
    """The images of a cache folder.

    The folder holds ``pixels.bin``, the uint8 pixels of the images one after another, (C, H, W)
    each, and ``index.safetensors``, their heights and widths, (n, 2), the broken images, those of
    one color, and digests of the pixels.

    While this object lives the folder counts as in use.

    Args:
        folder: A complete cache folder, made by `effssl.data._cache.cache_images`.
        checked: Whether to compare the pixels with their digests.

    Attributes:
        broken: Why each broken image cannot be read, by its row.
        constant: Rows of the images that are one constant color, (n,), rising.

    Raises:
        FileNotFoundError: If the folder is not there, or is being deleted.
        OSError: If it cannot be read.
        ValueError: If it is damaged, or holds no regular files.
        SafetensorError: If the index is damaged.
    """

    def __init__(self, folder: Path, checked: bool = True) -> None:
        self.folder = folder
        held = held_open(folder / INDEX)  # so that no other process deletes the folder
        weakref.finalize(self, held.close)
        with contextlib.suppress(OSError):
            os.utime(folder)  # its time is that of the last use
        with open_regular(folder / PIXELS) as file:
            size = os.fstat(file.fileno()).st_size
            index = Index(str(folder / INDEX), size)
            pixels = np.memmap(file, np.uint8, "r", shape=(size,)) if size else np.empty(0, "u1")
        if checked and index.digests is not None:
            check_pixels(pixels, index.digests)
        self._sizes, self._ends = index.sizes, index.ends
        self.channels, self.broken = index.channels, index.broken
        self.constant = index.constant
        with warnings.catch_warnings():
            # the mapping is read-only and nothing writes to it
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self.pixels = torch.from_numpy(pixels)

    def __reduce__(self) -> tuple[Callable, tuple[Path, bool]]:
        return CachedImages, (self.folder, False)  # a worker maps the file itself

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
        """Return the images of these rows as a batch, without copying their pixels."""
        broken = [self.broken[row] for row in rows if row in self.broken]
        places = [place for place, row in enumerate(rows) if row not in self.broken]
        readable = [rows[place] for place in places]
        sizes = torch.from_numpy(self._sizes[readable].astype(np.int64)).reshape(-1, 2)
        starts = torch.from_numpy(self._ends[readable]) - self.channels * sizes.prod(1)
        kept = torch.tensor(places, dtype=torch.long)
        return Batch(self.pixels, starts, sizes, kept, broken, self.channels)

    def to_device(self, device: torch.device) -> bool:
        """Copy the pixels to a CUDA device if they take at most a quarter of its free memory.

        Returns:
            Whether they are there now.
        """
        free, _ = torch.cuda.mem_get_info(device)
        fits = len(self.pixels) <= _GPU_SHARE * free
        if fits:
            self.pixels = self.pixels.to(device)
        return fits


class CachedBatches:
    """The batches of an epoch, without copying pixels.

    Args:
        dataset: Images, on a GPU.
        batches: Order of the images.
    """

    def __init__(self, dataset: CachedImages, batches: EpochBatches) -> None:
        self.dataset, self.batches = dataset, batches

    def __iter__(self) -> Iterator[Batch]:
        return map(self.dataset.batch, self.batches)

"""Digests of the pixels in a cache, block by block, and the check of a cache when it is opened."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xxhash
from safetensors import safe_open
from torch import Tensor

from effssl.data._hashing import add
from effssl.foreign import parse_json

BLOCK = 2**22
"""Bytes of a block."""
_TENSORS = ("sizes", "digests", "constant")
# 20 GB a second if the system has the file in memory, else as fast as it would be read anyway
_MOST_CHECKED = 1024  # blocks, or 4 GB; of larger files as many, evenly spread


class BlockDigests:
    """Digests of what is written to a file, block by block."""

    def __init__(self) -> None:
        self._done: list[int] = []
        self._hasher, self._held = xxhash.xxh3_64(), 0

    def update(self, content: np.ndarray) -> None:
        """Add bytes, uint8."""
        while len(content):
            part = content[: BLOCK - self._held]
            self._hasher.update(np.ascontiguousarray(part))
            self._held += len(part)
            content = content[len(part) :]
            if self._held == BLOCK:
                self._end()

    def tensor(self) -> Tensor:
        """Return the digests, (n,), int64; nothing may be added after."""
        if self._held:
            self._end()
        return torch.from_numpy(np.array(self._done, np.uint64).view(np.int64))

    def _end(self) -> None:
        self._done.append(self._hasher.intdigest())
        self._hasher, self._held = xxhash.xxh3_64(), 0


def check_pixels(pixels: np.ndarray, digests: np.ndarray) -> None:
    """Compare pixels with their digests: all blocks of a few GB, of more some.

    Args:
        pixels: Flat uint8 pixels.
        digests: Digest of every block, int64.

    Raises:
        ValueError: If they differ.
    """
    blocks = -(-len(pixels) // BLOCK)
    if digests.shape != (blocks,) or digests.dtype != np.int64:
        raise ValueError(f"it has digests of shape {digests.shape} for {blocks:,} blocks of pixels")
    known = digests.view(np.uint64)
    for number in np.unique(np.linspace(0, blocks - 1, min(blocks, _MOST_CHECKED)).astype(int)):
        block = pixels[number * BLOCK : (number + 1) * BLOCK]
        if xxhash.xxh3_64_intdigest(np.ascontiguousarray(block)) != known[number]:
            raise ValueError(f"block {number:,} of the pixels is not what was written")


class Index:
    """What the index of a cache says, in bounds.

    Args:
        file: Path of the index.
        size: Bytes of the pixels.

    Attributes:
        channels: Channels of the images, C.
        sizes: Heights and widths, (n, 2); 0 for broken images.
        ends: End of each image among the pixels, (n,).
        broken: Why each broken image cannot be read, by its row.
        digests: Digest of every block; None in caches of earlier versions.
        constant: Rows of the images that are one constant color, (n,), rising.

    Raises:
        ValueError: If it does not fit the pixels, or itself.
        SafetensorError: If it is not a safetensors file.
    """

    def __init__(self, file: str, size: int) -> None:
        with safe_open(file, "pt") as index:
            names = {*_TENSORS} & set(index.keys())
            tensors = {name: index.get_tensor(name) for name in names}
            metadata = index.metadata() or {}
        if "sizes" not in tensors:
            raise ValueError("it holds no sizes")
        sizes = tensors["sizes"]
        self.digests = tensors["digests"].numpy() if "digests" in tensors else None
        known = metadata.get("digest")
        if self.digests is not None and known != digest_of_index(tensors, metadata):
            raise ValueError("its index is not what was written")
        if sizes.dtype != torch.int32 or sizes.ndim != 2 or sizes.shape[1] != 2 or not len(sizes):
            raise ValueError(f"it holds sizes of shape {tuple(sizes.shape)} and type {sizes.dtype}")
        self.sizes, self.channels = sizes.numpy(), _channels(metadata.get("channels"))
        self.broken = _broken(metadata.get("broken", ""), self.sizes)
        self.constant = _constant(tensors.get("constant"), self.sizes)
        areas = self.sizes.prod(1, dtype=np.int64)
        if self.sizes.min() < 0 or areas.max() > size // self.channels:
            raise ValueError("the size of an image is not possible")
        needed = self.channels * areas.sum(dtype=np.float64)  # which does not overflow
        if needed > 2 * size or self.channels * int(areas.sum()) != size:
            raise ValueError(
                f"its images have {needed:,.0f} bytes of pixels, and {size:,} are there"
            )
        self.ends = np.cumsum(self.channels * areas)


def digest_of_index(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return a digest of what an index holds, for its metadata."""
    hasher = xxhash.xxh3_64()
    for name in _TENSORS:
        if name in tensors:
            add(hasher, tensors[name].numpy())
    for name in ("channels", "broken"):
        add(hasher, metadata.get(name))
    return hasher.hexdigest()


def _channels(text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdigit() and 0 < len(text) < 6 and int(text)):
        raise ValueError("it does not say how many channels there are")
    return int(text)


def _constant(rows: Tensor | None, sizes: np.ndarray) -> np.ndarray:
    if rows is None:
        return np.empty(0, np.int64)
    found = rows.numpy()
    if found.dtype != np.int64 or found.ndim != 1 or (np.diff(found) <= 0).any():
        raise ValueError("its images of one color are not rising rows")
    if len(found) and not 0 <= found[0] <= found[-1] < len(sizes):
        raise ValueError(f"its images of one color are not among its {len(sizes):,}")
    return found


def _broken(text: str, sizes: np.ndarray) -> dict[int, str]:
    found = parse_json(text)
    rows = {str(row) for row in np.flatnonzero(~sizes.all(1))}
    # by rows, so that the text of a row is that of its number
    if not isinstance(found, dict) or found.keys() != rows or sizes[~sizes.all(1)].any():
        raise ValueError("its broken images are not those without a size")
    if not all(isinstance(why, str) for why in found.values()):
        raise ValueError("it does not say why images are broken")
    return {int(row): why for row, why in found.items()}

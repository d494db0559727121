"""Decoding a data set once, for all processes of a run and for later runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from effssl.atomic import write_json
from effssl.background import color_of
from effssl.data._broken import MAX_BROKEN, check_broken
from effssl.data._cached_images import INDEX, PIXELS, CachedImages
from effssl.data._constant import NAMED, say_constant
from effssl.data._decode import image_name, image_size
from effssl.data._loader import DecodedImages, name_of_constant
from effssl.data._locks import locked
from effssl.data._pixel_check import BlockDigests, digest_of_index
from effssl.data._pixels import BrokenImage, pixel_limit
from effssl.data._suffixes import is_installed_now
from effssl.data.sources import Source
from effssl.processes import check_main_guard, start_method
from effssl.progress import Stage
from effssl.shown import one_line

logger = logging.getLogger(__name__)

FORMAT = 3
"""Increase it when decoding or the files of a cache folder change."""
ABOUT = "about.json"
"""Name of the file in a cache folder that says what it is of; older folders have none."""
_BATCH = 64  # images a worker decodes at a time
_SAID: set[Path] = set()  # caches whose images of one color were named
_SAMPLED = 256  # images whose size is read to estimate the bytes of all


def cache_images(
    source: Source,
    short_side: int,
    *,
    max_bytes: float,
    workers: int,
    max_broken: float = MAX_BROKEN,
    name: str | None = None,
    digest: str | None = None,
) -> CachedImages | None:
    """Open the decoded images of a source, decoding them first if no earlier run did.

    Processes that need the same images wait for the one that decodes them.

    Args:
        source: Map-style images.
        short_side: Most pixels of the shorter side; larger images are shrunk.
        max_bytes: Largest estimated size of a new cache, which may also not fill the disk. A cache
            of an earlier run is opened whatever its size. 0 turns caching off.
        workers: Number of processes that decode.
        max_broken: Largest share of the images that may be broken, in an earlier cache too.
        name: Name of the data set, for ``effssl cache``.
        digest: Digest of the images if the caller knows it, to look at them once.

    Returns:
        The images, or None if they are not cached: too large, or the cache cannot be written.

    Raises:
        ValueError: If more of the images are broken (`check_broken`).
    """
    check_main_guard("effssl.pretrain")
    if not max_bytes:
        return None
    # HF_HOME is where users expect such data, and is often moved to a disk with room
    caches = Path(HF_HOME) / "effssl" / "decoded"
    try:
        digest = digest or source.digest(read=False)
        if digest is None:
            caches.mkdir(parents=True, exist_ok=True)
            if _is_too_large(source, short_side, caches, max_bytes):
                return None  # had an earlier run made one, the digest would be known
            digest = source.digest()
        how = [source.in_chans, short_side, source.value_range, pixel_limit(source.max_pixels)]
        how += [color_of(source.background)]
        key = json.dumps([FORMAT, digest, *how])
        folder = caches / hashlib.sha256(key.encode()).hexdigest()[:24]
        images = _open(folder, source)  # which needs no right to write
        if images is None:
            with locked(folder):
                made = (source, short_side, folder, max_bytes, max_broken, workers, name)
                images = _open(folder, source, say=True) or _make(*made)
        if images is not None:
            check_broken(images.broken.values(), len(images), max_broken)
            _say_constant(images, source)
        return images
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        logger.warning(
            "decoding in every epoch: no cache in %s: %s; set HF_HOME to a folder that can be "
            "written, on a disk that has locks and room",
            caches,
            reason,
        )
        return None


def _say_constant(images: CachedImages, source: Source) -> None:
    """Name images of one color, once in a process."""
    if images.folder in _SAID:
        return
    _SAID.add(images.folder)
    rows = images.constant.tolist()
    paths = replace(source, dataset=source.dataset.select(rows[:NAMED])).paths() if rows else []
    names = [image_name(path, f"row {row}") for row, path in zip(rows, paths, strict=False)]
    say_constant(len(rows), len(images) - len(images.broken), names)


def _open(folder: Path, source: Source, *, say: bool = False) -> CachedImages | None:
    """Open a cache; None if there is none, or it is damaged, which is worth a warning."""
    try:
        images = CachedImages(folder)
        if (len(images), images.channels) != (len(source.dataset), source.in_chans):
            raise ValueError(f"it holds {len(images):,} images of {images.channels} channels")
    except FileNotFoundError:
        return None
    except PermissionError as error:  # of another user, whose cache stays
        raise OSError(f"{folder} may not be read by this user") from error
    except (OSError, ValueError, SafetensorError) as error:  # by a power cut, for one
        if say:
            logger.warning(
                "the decoded images in %s are damaged, and decoded anew: %s",
                folder,
                one_line(error, 300),
            )
        return None
    return None if any(map(is_installed_now, images.broken.values())) else images


def _clear(folder: Path) -> None:
    """Delete a folder of a cache that cannot be used, if this user made it."""
    try:
        status = os.lstat(folder)
    except FileNotFoundError:
        return
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise OSError(f"{folder} cannot be used, and is left since another user made it")
    shutil.rmtree(folder, ignore_errors=True)


def _is_too_large(source: Source, short_side: int, caches: Path, max_bytes: float) -> bool:
    needed = _estimate(source, short_side)
    free = shutil.disk_usage(caches).free
    too_large = needed > min(max_bytes, 0.9 * free)
    if too_large:
        logger.info(
            "decoding in every epoch: the decoded images would take about %.1f GB, with %.1f GB "
            "allowed and %.1f GB free on disk",
            needed / 1e9,
            max_bytes / 1e9,
            free / 1e9,
        )
    return too_large


def _make(
    source: Source,
    short_side: int,
    folder: Path,
    max_bytes: float,
    max_broken: float,
    workers: int,
    name: str | None,
) -> CachedImages | None:
    if _is_too_large(source, short_side, folder.parent, max_bytes):
        return None
    # The partial folder is renamed when it is complete. Its name is fixed, unlike that of
    # atomic.replacing_folder, so that the next run removes what a killed one has left: under the
    # lock no other run writes to it.
    partial = folder.with_name(folder.name + ".partial")
    for left in (partial, folder):
        _clear(left)
    partial.mkdir()
    try:
        _decode(source, short_side, partial, max_broken, workers)
        about = {"format": FORMAT, "dataset": name, "images": len(source.dataset)}
        about |= {"in_chans": source.in_chans, "short_side": short_side}
        write_json(partial / ABOUT, about)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return CachedImages(folder, checked=False)


def _estimate(source: Source, short_side: int) -> float:
    """Estimate the bytes of all decoded images from the sizes of some."""
    rows = len(source.dataset)
    areas = []
    for row in range(0, rows, 1 + rows // _SAMPLED):
        value = source.dataset[row][source.image_column]
        try:
            height, width = image_size(value, source.in_chans, source.max_pixels)
        except BrokenImage:
            continue
        scale = min(1.0, short_side / min(height, width))
        areas.append(height * width * scale**2)
    return rows * source.in_chans * float(np.mean(areas)) if areas else 0.0


def _decode(source: Source, short_side: int, folder: Path, max_broken: float, workers: int) -> None:
    rows = len(source.dataset)
    logger.info("decoding %s images once, to %s", f"{rows:,}", folder.parent)
    started = time.perf_counter()
    workers = workers if rows > 10 * _BATCH else 0
    loader = DataLoader(
        DecodedImages(source, short_side),
        _BATCH,
        collate_fn=_pack,
        num_workers=workers,
        multiprocessing_context=start_method(workers),
    )
    sizes: list[tuple[int, int]] = []
    broken: dict[int, str] = {}
    constant: list[int] = []
    digests = BlockDigests()
    with (
        open(folder / PIXELS, "wb") as file,
        Stage("decode", rows) as stage,
    ):
        for pixels, batch_sizes, batch_broken, batch_constant in loader:
            constant += [len(sizes) + row for row in batch_constant]
            broken |= {len(sizes) + row: why for row, why in batch_broken.items()}
            check_broken(broken.values(), rows, max_broken)
            sizes += batch_sizes
            file.write(pixels.numpy())
            digests.update(pixels.numpy())
            stage.update(len(batch_sizes))
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave the renamed folder without them
    metadata = {"channels": str(source.in_chans), "broken": json.dumps(broken)}
    index = {"sizes": torch.tensor(sizes, dtype=torch.int32), "digests": digests.tensor()}
    index["constant"] = torch.tensor(constant, dtype=torch.int64)
    metadata["digest"] = digest_of_index(index, metadata)
    save_file(index, folder / INDEX, metadata)
    decoded = f"{rows - len(broken):,}"
    logger.info("decoded %s images in %.1f s", decoded, time.perf_counter() - started)


def _pack(
    items: list[Tensor | BrokenImage],
) -> tuple[Tensor, list[tuple[int, int]], dict[int, str], list[int]]:
    """Pack all pixels into one tensor: a worker then passes one file descriptor, not many.

    Returns:
        Pixels, sizes, why images are broken, and which are of one color, by place in the batch.
    """
    broken = {row: str(item) for row, item in enumerate(items) if isinstance(item, BrokenImage)}
    images = [item for item in items if isinstance(item, Tensor)]
    sizes = [(0, 0) if row in broken else tuple(item.shape[1:]) for row, item in enumerate(items)]
    flat = torch.cat([image.flatten() for image in images]) if images else torch.empty(0).byte()
    constant = [
        row
        for row, item in enumerate(items)
        if isinstance(item, Tensor) and name_of_constant(item) is not None
    ]
    return flat, sizes, broken, constant

"""Folders of images: listing them, and decoding them beside torchvision's ImageFolder.

    python benchmarks/folders.py
    python benchmarks/folders.py --folder path/to/images --files 0

Both decode the same files with the same number of workers to the same size, 256 pixels on the
shorter side, as RGB bytes. Figures are medians of alternating epochs. The listing is timed on empty
files, in memory where the system has /dev/shm.
"""

import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from effssl.data import load_source
from effssl.data._loader import DecodedImages, collate

SHORT_SIDE, BATCH = 256, 64


def main(
    folder: Path | None = None,
    images: int = 2000,
    files: int = 1_000_000,
    workers: int = 2,
    repeats: int = 5,
) -> None:
    """Print two tables.

    Args:
        folder: Folder of class folders; smooth JPEGs of 500 x 375 pixels are made if None.
        images: Number of images to make.
        files: Number of empty files to list; 0 leaves that out.
        workers: Number of decoding processes.
        repeats: Number of epochs of each kind.
    """
    with tempfile.TemporaryDirectory() as root:
        if folder is None:
            folder = Path(root)
            make_images(folder, images)
        compare(folder, workers, repeats)
    if files:
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as root:
            list_files(Path(root), files)


def make_images(folder: Path, count: int) -> None:
    """Write smooth JPEGs to two class folders; their entropy is about that of photos."""
    rng = np.random.default_rng(0)
    for i in range(count):
        file = folder / f"class_{i % 2}" / f"{i:05}.jpg"
        file.parent.mkdir(exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(file, quality=90)


def compare(folder: Path, workers: int, repeats: int) -> None:
    """Print the throughput of an epoch of decoding by each library."""
    transform = v2.Compose([v2.Resize(SHORT_SIDE, antialias=True), v2.PILToTensor()])
    theirs, ours = ImageFolder(folder, transform), DecodedImages(load_source(folder), SHORT_SIDE)
    assert len(theirs) == len(ours)
    loaders = {
        "torchvision": DataLoader(theirs, BATCH, num_workers=workers, collate_fn=list),
        "effssl": DataLoader(ours, BATCH, num_workers=workers, collate_fn=pack),
    }
    seconds = {name: [] for name in loaders}
    for _ in range(repeats):
        for name, loader in loaders.items():
            start = time.perf_counter()
            for _ in loader:
                pass
            seconds[name].append(time.perf_counter() - start)
    rate = {name: len(ours) / statistics.median(times) for name, times in seconds.items()}
    print(f"torch {torch.__version__}, {workers} workers, {len(ours):,} images")
    print("| torchvision, images/s | effssl, images/s | effssl / torchvision |\n|--:|--:|--:|")
    ratio = rate["effssl"] / rate["torchvision"]
    print(f"| {rate['torchvision']:,.0f} | {rate['effssl']:,.0f} | {ratio:.2f} |")


def pack(items: list) -> torch.Tensor:
    """Pack images as training does."""
    return collate(items, 3).pixels


def list_files(root: Path, count: int) -> None:
    """Print the time and memory of opening a folder of empty files."""
    for i in range(0, count, 1000):
        folder = root / f"class_{i // 1000:04}"
        folder.mkdir()
        for j in range(min(1000, count - i)):
            (folder / f"{j:06}.jpg").touch()
    before, start = peak_bytes(), time.perf_counter()
    source = load_source(root)
    elapsed, each = time.perf_counter() - start, (peak_bytes() - before) / count
    print("| files | seconds | bytes a file |\n|--:|--:|--:|")
    print(f"| {source.num_images:,} | {elapsed:.1f} | {each:.0f} |")


def peak_bytes() -> int:
    """Return the peak of the memory of this process."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    tyro.cli(main)

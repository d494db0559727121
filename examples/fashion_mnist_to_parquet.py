"""Turn Fashion-MNIST's IDX files into parquet files with embedded PNG images.

    python examples/fashion_mnist_to_parquet.py fashion-mnist
    python examples/fashion_mnist_to_parquet.py fashion-mnist-moved --moved
    python examples/fashion_mnist_to_parquet.py sample --per-class 1000 200

The first writes all 60,000 and 10,000 images, the second the same with each object in a place, a
size and a turn of its own. The third made the sample inside the package (effssl/data/sample): the
first 1,000 training and 200 test images of each of the 10 classes, in the order of the files. The
IDX files are those of https://github.com/zalandoresearch/fashion-mnist, or of Debian's package
dataset-fashion-mnist, whose folder is the default of ``--source``.
"""

import gzip
import io
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from effssl.data import move_objects

CLASSES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip


def read_idx(path: Path, header: int) -> np.ndarray:
    """Read the bytes of an IDX file after its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def png(pixels: np.ndarray) -> bytes:
    """Encode gray pixels, (H, W), as PNG."""
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(
    output: Annotated[Path, tyro.conf.Positional],
    source: Path = Path("/usr/share/datasets/fashion-mnist"),
    per_class: tuple[int, int] | None = None,
    moved: bool = False,
) -> None:
    """Write OUTPUT/train.parquet and OUTPUT/test.parquet.

    Args:
        output: Folder to write to; made if missing.
        source: Folder of the four IDX files.
        per_class: Keep only the first so many training and test images of each class.
        moved: Move the objects, onto images of 32 px.
    """
    output.mkdir(parents=True, exist_ok=True)
    features = Features({"image": Image(), "label": ClassLabel(names=CLASSES)})
    for i, (split, prefix) in enumerate([("train", "train"), ("test", "t10k")]):
        images = read_idx(source / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz", 8)
        keep = np.arange(len(labels))
        if per_class is not None:
            first = [np.flatnonzero(labels == c)[: per_class[i]] for c in range(10)]
            keep = np.sort(np.concatenate(first))
        images = move_objects(images[keep]) if moved else images[keep]
        rows = {
            "image": [{"bytes": png(image), "path": None} for image in images],
            "label": labels[keep].tolist(),
        }
        Dataset.from_dict(rows, features=features).to_parquet(output / f"{split}.parquet")


if __name__ == "__main__":
    tyro.cli(main)

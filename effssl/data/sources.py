"""Any image source, as rows of undecoded images, with its image and label columns found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from tarfile import TarError
from typing import TYPE_CHECKING

import numpy as np

from effssl.data._decode import BrokenImage, WrongChannels, decode_image
from effssl.data._decode import pil_mode as pil_mode
from effssl.data._readers import SAMPLE as SAMPLE
from effssl.data._readers import is_public as is_public
from effssl.data._readers import read

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

_LABEL_NAMES = ("label", "labels", "class", "target", "fine_label", "cls")


@dataclass(frozen=True)
class Source:
    """An image data set and what its columns mean.

    Attributes:
        dataset: The rows; ``decode_image(dataset[i][image_column], in_chans)`` gives pixels. A
            ``datasets.Dataset``, or an ``IterableDataset`` when streaming.
        image_column: Name of the column with the images, which are not decoded.
        label_column: Name of the column with integer class labels, or None.
        in_chans: Channels that images are to be decoded to.
        num_images: Number of rows; None for a stream whose length is not known.
    """

    dataset: Dataset | IterableDataset
    image_column: str
    label_column: str | None
    in_chans: int
    num_images: int | None

    @property
    def streaming(self) -> bool:
        """Whether rows can only be read in order."""
        from datasets import IterableDataset

        return isinstance(self.dataset, IterableDataset)

    def labels(self) -> list[int]:
        """The class of every image, in order.

        Raises:
            ValueError: If there is no label column, it holds anything but classes from 0, or the
                source is a stream.
        """
        if self.streaming:
            raise ValueError("labels need a map-style source; load it without streaming")
        if self.label_column is None:
            raise ValueError(
                f"the data set has no label column among {self.dataset.column_names}: "
                "name one with label_column"
            )
        labels = self.dataset[self.label_column][:]
        wrong = [label for label in labels if not isinstance(label, int) or label < 0]
        if wrong:
            raise ValueError(
                f"label column {self.label_column!r} holds {wrong[0]!r}; classes are whole numbers "
                "from 0"
            )
        return labels

    def digest(self, *, read: bool = True) -> str | None:
        """What the images are, wherever they lie; see `effssl.data._digest.digest_images`.

        Args:
            read: Whether their content may be read for it, which can take minutes.

        Returns:
            None if it would have to be read and must not be.

        Raises:
            ValueError: If the source is a stream.
        """
        from effssl.data._digest import digest_images

        if self.streaming:
            raise ValueError("a digest needs a map-style source; load it without streaming")
        return digest_images(self.dataset, self.image_column, read=read)


def load_source(
    dataset: str = SAMPLE,
    split: str = "train",
    *,
    in_chans: int = 3,
    image_column: str | None = None,
    label_column: str | None = None,
    streaming: bool = False,
) -> Source:
    """Open a data set of images, without decoding any but the first.

    Args:
        dataset: One of

            - ``fashion-mnist-sample``: 10,000 training and 2,000 test images that come with the
              package;
            - a folder of images, whose class subfolders become labels;
            - a folder of .npy files, one image each, of any number of channels; class subfolders
              become labels and split subfolders such as train and test become splits;
            - a .parquet file, a .tar file in webdataset format, or a folder of either;
            - a folder written by ``save_to_disk``;
            - a pattern of images, .npy, .parquet or .tar files, such as ``shards/*.parquet`` or
              ``photos/**/*.jpg``, all of them in the split train;
            - a Hub id such as ``uoft-cs/cifar10``.
        split: ``train``, ``test`` or any split expression of ``datasets``, such as ``train[:10%]``.
        in_chans: Channels to decode to: 1 (grey), 3 (RGB) or 4 (RGBA) for image files, and for
            arrays the number that they have.
        image_column: Column with the images; found by its type if None. Named, it may also hold
            bytes, ``{"bytes": ..., "path": ...}``, or nested lists.
        label_column: Column with integer labels; found by type, then by name, if None.
        streaming: Read in order as the rows are asked for, without preparing or downloading the
            whole; ``split`` must then be a whole one.

    Raises:
        FileNotFoundError: If nothing is found under the name.
        ValueError: If the split or a column does not exist, there are no images, they cannot be
            read as ``in_chans`` channels, or a stream is to be sliced.
    """
    with _named_errors(dataset, split):
        rows, count = read(dataset, split, streaming)
    if count == 0:
        raise ValueError(f"data set {dataset!r}, split {split!r}, is empty")
    if rows.features is None:  # of a stream whose reader does not know them
        rows = rows._resolve_features()
    image_column = _image_column(rows.features, image_column)
    label_column = _label_column(rows.features, label_column)
    rows = rows.select_columns([image_column] + ([label_column] if label_column else []))
    rows = _undecoded(rows, image_column, streaming)
    with _named_errors(dataset, split):
        first = list(rows.take(1))
    if not first:
        raise ValueError(f"data set {dataset!r}, split {split!r}, is empty")
    try:
        decode_image(first[0][image_column], in_chans)
    except WrongChannels as error:
        raise ValueError(f"data set {dataset!r}: {error}") from error
    except BrokenImage:
        pass  # one of many: whoever reads them all decides how many may be broken
    return Source(rows, image_column, label_column, in_chans, count)


@contextmanager
def _named_errors(dataset: str, split: str) -> Iterator[None]:
    """Errors of ``datasets`` as ours, in one line that names the data set."""
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import (
        DataFilesNotFoundError,
        DatasetGenerationError,
        DatasetNotFoundError,
    )

    try:
        yield
    except DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"no data set {dataset!r}: no such file or folder here, and the Hub says: {error}"
        ) from error
    except ConnectionError as error:
        raise FileNotFoundError(
            f"no data set {dataset!r}: no such file or folder here, and the Hub cannot be reached"
        ) from error
    except (DataFilesNotFoundError, EmptyDatasetError) as error:
        raise FileNotFoundError(f"no images or parquet files in {dataset!r}: {error}") from error
    except (ValueError, TarError) as error:
        raise ValueError(f"data set {dataset!r}, split {split!r}: {error}") from error
    except DatasetGenerationError as error:  # says nothing itself
        raise ValueError(
            f"data set {dataset!r}, split {split!r}: {error.__cause__ or error}"
        ) from error
    except IndexError as error:  # what datasets makes of a save_to_disk folder without rows
        raise ValueError(f"data set {dataset!r}, split {split!r}, is empty") from error


def _undecoded(rows, column: str, streaming: bool):
    """Rows whose images are files that are not decoded, or arrays of the type they were stored in.

    ``datasets`` would make lists of arrays, in which uint16 cannot be told from other numbers.
    """
    from datasets import Array2D, Array3D, Image

    kind = rows.features[column]
    dtype = _dtype(kind)
    if dtype is None:
        return rows.cast_column(column, Image(decode=False))
    if streaming:  # streams have no formats with a dtype
        return rows.map(partial(_as_array, column=column, dtype=dtype), features=rows.features)
    empty = rows.data.column(column).null_count
    if empty and isinstance(kind, Array2D | Array3D):  # which numpy would turn into black images
        raise ValueError(f"{empty} cells of the column {column!r} are empty: filter them out first")
    return rows.with_format("numpy", columns=[column], output_all_columns=True, dtype=dtype)


def _as_array(row: dict, column: str, dtype: str) -> dict:
    # an array that is none, of unequal rows or none at all, is a broken image, and not an error
    try:
        return {column: np.asarray(row[column], dtype)}
    except (TypeError, ValueError):
        return {column: None}


def _dtype(kind: object) -> str | None:
    """Type of the numbers of an array column, None of any other."""
    from datasets import Array2D, Array3D, LargeList, List, Value

    if isinstance(kind, Array2D | Array3D):
        return kind.dtype
    depth = 0
    while isinstance(kind, List | LargeList):
        kind, depth = kind.feature, depth + 1
    return kind.dtype if depth in (2, 3) and isinstance(kind, Value) else None


def _image_column(features: Features, name: str | None) -> str:
    """The column that is named, or the only one of the likeliest kind that there is."""
    from datasets import Array2D, Array3D, Image, Value

    files, arrays, bytes_, lists = [], [], [], []
    for column, kind in features.items():
        if isinstance(kind, Image):
            files.append(column)
        elif isinstance(kind, Array2D | Array3D):
            arrays.append(column)
        elif kind in (Value("binary"), Value("large_binary")) or (
            isinstance(kind, dict) and kind.keys() == {"bytes", "path"}
        ):
            bytes_.append(column)
        elif _dtype(kind):
            lists.append(column)
    if name is not None:
        images = files + arrays + bytes_ + lists
        if name not in images:
            raise ValueError(f"image_column {name!r} is not among the image columns {images}")
        return name
    images = files or arrays or bytes_
    if len(images) != 1:
        raise ValueError(
            f"the data set has {len(images)} image columns {images} among {list(features)}: "
            "name the one to use with image_column"
        )
    return images[0]


def _label_column(features: Features, name: str | None) -> str | None:
    from datasets import ClassLabel

    if name is not None:
        if name not in features:
            raise ValueError(f"label_column {name!r} is not among the columns {list(features)}")
        return name
    classes = [column for column, kind in features.items() if isinstance(kind, ClassLabel)]
    named = [column for column in _LABEL_NAMES if column in features]
    return next(iter(classes if len(classes) == 1 else named), None)

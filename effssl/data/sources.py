"""Image sources of any kind, as rows of undecoded images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tarfile import TarError
from typing import TYPE_CHECKING

from effssl.data._columns import find_image_column, find_label_column, undecoded
from effssl.data._decode import decode_image
from effssl.data._pixels import BrokenImage, WrongChannels
from effssl.data._readers import SAMPLE as SAMPLE
from effssl.data._readers import is_public as is_public
from effssl.data._readers import read

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


@dataclass(frozen=True)
class Source:
    """An image data set with its image and label columns.

    Attributes:
        dataset: Rows, a ``datasets.Dataset``, or an ``IterableDataset`` when streaming;
            ``decode_image(dataset[i][image_column], in_chans)`` gives pixels.
        image_column: Name of the column with the undecoded images.
        label_column: Name of the column with integer class labels, or None.
        in_chans: Number of channels to decode images to.
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
        """Return the class of every image, in order.

        Raises:
            ValueError: If the source is a stream, or has no label column, or has labels that are
                not whole numbers from 0.
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
        """Return a digest of the images; see `effssl.data._digest.digest_images`.

        Args:
            read: Whether the images may be read for it, which can take minutes.

        Returns:
            Hexadecimal digits, or None if the images have to be read and may not be.

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
    """Open a data set of images. Only the first one is decoded, as a check.

    Args:
        dataset: One of

            - ``fashion-mnist-sample``: 10,000 training and 2,000 test images that come with the
              package;
            - a folder of images, whose class subfolders become labels;
            - a folder of .npy files, one image each, with any number of channels; class subfolders
              become labels, and subfolders such as train and test become splits;
            - a .parquet file, a .tar file in webdataset format, or a folder of either;
            - a folder written by ``save_to_disk``;
            - a pattern of images, .npy, .parquet or .tar files, such as ``shards/*.parquet`` or
              ``photos/**/*.jpg``, which form the split train;
            - a Hub id such as ``uoft-cs/cifar10``.
        split: ``train``, ``test`` or any split expression of ``datasets``, such as ``train[:10%]``.
        in_chans: Channels to decode to: 1 (gray), 3 (RGB) or 4 (RGBA) for image files; for arrays,
            the number that they have.
        image_column: Column with the images; found by its type if None. A column of nested lists
            must be named.
        label_column: Column with integer labels; found by its type, then by its name, if None.
        streaming: Read rows in order as they are needed, without preparing or downloading the
            whole data set; ``split`` must then be a whole split.

    Raises:
        FileNotFoundError: If there is no data set of that name.
        ValueError: If the split or a column does not exist, there are no images, they do not have
            ``in_chans`` channels, or a stream is to be sliced.
    """
    with _named_errors(dataset, split):
        rows, count = read(dataset, split, streaming)
    if count == 0:
        raise ValueError(f"data set {dataset!r}, split {split!r}, is empty")
    if rows.features is None:  # a stream of unknown columns; nothing public looks at its first rows
        rows = rows._resolve_features()
    image_column = find_image_column(rows.features, image_column)
    label_column = find_label_column(rows.features, label_column)
    rows = rows.select_columns([image_column] + ([label_column] if label_column else []))
    rows = undecoded(rows, image_column, streaming)
    with _named_errors(dataset, split):
        first = list(rows.take(1))
    if not first:
        raise ValueError(f"data set {dataset!r}, split {split!r}, is empty")
    try:
        decode_image(first[0][image_column], in_chans)
    except WrongChannels as error:
        raise ValueError(f"data set {dataset!r}: {error}") from error
    except BrokenImage:
        pass  # may be one of many; readers of all images decide how many may be broken
    return Source(rows, image_column, label_column, in_chans, count)


@contextmanager
def _named_errors(dataset: str, split: str) -> Iterator[None]:
    """Raise errors of ``datasets`` as ours, in one line that names the data set."""
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
    except DatasetGenerationError as error:  # its own text says nothing
        raise ValueError(
            f"data set {dataset!r}, split {split!r}: {error.__cause__ or error}"
        ) from error
    except IndexError as error:  # datasets raises it for a save_to_disk folder without rows
        raise ValueError(f"data set {dataset!r}, split {split!r}, is empty") from error

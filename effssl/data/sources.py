"""Image sources of any kind, as rows of undecoded images."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from effssl.background import color_of
from effssl.data._columns import (
    cell_paths,
    find_image_column,
    find_path_column,
    has_images,
    images_at_paths,
    undecoded,
)
from effssl.data._confined import confined
from effssl.data._decode import decode_image
from effssl.data._items import all_items, has_classes, items_at
from effssl.data._labels import class_names, find_label_column, number_classes
from effssl.data._paths import shown
from effssl.data._pixels import BrokenImage, WrongChannels
from effssl.data._readers import SAMPLE as SAMPLE
from effssl.data._readers import is_public as is_public
from effssl.data._readers import read
from effssl.data._source_errors import name_of, named_errors
from effssl.data._splits import stratified_rows
from effssl.data._value_range import settle_range
from effssl.hints import option

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset
    from torch import Tensor

    Images = str | os.PathLike | Dataset | DatasetDict | IterableDataset | Sequence[Any]


@dataclass(frozen=True)
class Source:
    """An image data set with its image and label columns.

    ``source[i]`` decodes image i: a uint8 tensor, (C, H, W), and its class, -1 for an image without
    one. ``source[10:20]`` is the source of these rows, ``len(source)`` their number, and iteration
    gives all images in order. `torch.utils.data.DataLoader` takes a source as it is, with a
    ``collate_fn`` if the images are of several sizes. A stream can be iterated only.

    >>> image, label = load_source("fashion-mnist-sample", in_chans=1)[0]
    >>> image.shape, label
    (torch.Size([1, 28, 28]), 9)

    Attributes:
        dataset: Rows, a ``datasets.Dataset``, or an ``IterableDataset`` when streaming;
            ``decode_image(dataset[i][image_column], in_chans)`` gives pixels, with ``value_range``
            and ``max_pixels`` as options.
        image_column: Name of the column with the undecoded images.
        label_column: Name of the column with class labels, or None.
        in_chans: Number of channels to decode images to.
        num_images: Number of rows; None for a stream whose length is not known.
        root: Folder of the images on this machine, if they lie in one.
        value_range: Stored values that become 0 and 255; None for the full range of their type.
        background: Color behind transparent pixels, or ``drop``; white if None.
        max_pixels: Most pixels of an image; those that Pillow opens if None.
        split: Split that it is, in the names of the data set.
    """

    dataset: Dataset | IterableDataset
    image_column: str
    label_column: str | None
    in_chans: int
    num_images: int | None
    root: str | None = None
    value_range: tuple[float, float] | None = None
    background: str | None = None
    max_pixels: int | None = None
    split: str = "train"

    @property
    def streaming(self) -> bool:
        """Whether rows can only be read in order."""
        from datasets import IterableDataset

        return isinstance(self.dataset, IterableDataset)

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """Name of every class, in the order of their numbers, if the labels are names."""
        if self.streaming or self.label_column is None:
            return None
        return class_names(self.dataset, self.label_column)

    def as_trained(self, value_range: tuple[float, float] | None, background: str | None) -> Source:
        """Return the source with the value range and background of a model where it has none."""
        return replace(
            self,
            value_range=self.value_range if self.value_range is not None else value_range,
            background=self.background or background,
        )

    def __len__(self) -> int:
        """Return the number of images.

        Raises:
            TypeError: If the source is a stream.
        """
        if self.streaming:
            raise TypeError("a stream has no length and no indices: iterate over it")
        return len(self.dataset)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int | slice) -> tuple[Tensor, int] | Source:
        """Decode an image, or take the rows of a slice.

        Raises:
            BrokenImage: If the image cannot be read; the message names it.
            IndexError: If there is no such image.
            TypeError: If the source is a stream, or the index is neither a number nor a slice.
        """
        count = len(self)
        if isinstance(index, slice):
            rows = self.dataset.select(range(count)[index])
            part = replace(self, dataset=rows, num_images=len(rows))
            vars(part)["class_names"] = self.class_names  # whatever classes the rows have
            return part
        try:
            row = operator.index(index)
        except TypeError:
            raise TypeError(
                f"an index is a whole number or a slice, not {type(index).__name__}"
            ) from None
        if not -count <= row < count:
            raise IndexError(f"image {row} of {count:,}")
        return self.__getitems__([row])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Decode several images, which reads their rows at once; DataLoader calls it."""
        return items_at(self, [range(len(self))[index] for index in indices])

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return all_items(self)

    @cached_property
    def has_classes(self) -> bool:
        """Whether the labels are classes, so that images do not come with -1 alone."""
        return has_classes(self)

    def labels(self) -> list[int]:
        """Return the class of every image, in order; -1 for an image without one.

        An image has no class where its cell is empty (None, NaN) or -1. Names are numbered in the
        order of `class_names`.

        Raises:
            ValueError: If the source is a stream, or has no label column, or has labels that are
                neither names nor whole numbers, or several labels an image.
        """
        if self.streaming:
            raise ValueError("labels need a map-style source; load it without streaming")
        if self.label_column is None:
            raise ValueError(
                f"the data set has no label column among {self.dataset.column_names}: "
                f"name one with {option('label_column')}"
            )
        values = self.dataset[self.label_column][:]
        return number_classes(values, self.class_names, self.label_column)

    def train_test_split(self, test_share: float = 0.2, *, seed: int = 0) -> tuple[Source, Source]:
        """Split the images into two sources, every class in the same proportion, at random.

        A class of two images or more has one at least in each. A class of one image, and images
        without a class, go to the first.

        Args:
            test_share: Share of the second one.
            seed: Seed of the choice.

        Raises:
            ValueError: If the share is not above 0 and below 1, `labels` cannot be read, or no
                class has two images.
        """
        if not 0 < test_share < 1:
            raise ValueError(
                f"{option('test_share')} must be above 0 and below 1, got {test_share}"
            )
        train, test = stratified_rows(self.labels(), test_share, seed)
        if not test:
            raise ValueError(
                f"no class of the {len(train):,} images has two of them: there is nothing to split"
            )
        parts = ((train, 1 - test_share), (test, test_share))
        return tuple(
            replace(
                self,
                dataset=self.dataset.select(rows),
                num_images=len(rows),
                split=f"{self.split} ({100 * share:g} %, stratified, seed {seed})",
            )
            for rows, share in parts
        )

    def paths(self) -> list[str | None]:
        """Return the path of every image, relative to `root`, in order; None for one without.

        Raises:
            ValueError: If the source is a stream.
        """
        if self.streaming:
            raise ValueError("paths need a map-style source; load it without streaming")
        cells = cell_paths(self.dataset, self.image_column)
        return [None if path is None else shown(path, self.root) for path in cells]

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
    dataset: Images = SAMPLE,
    split: str = "train",
    *,
    in_chans: int = 3,
    image_column: str | None = None,
    label_column: str | None = None,
    streaming: bool = False,
    value_range: tuple[float, float] | Literal["auto"] | None = None,
    background: str | None = None,
    max_pixels: int | None = None,
) -> Source:
    """Open a data set of images. The first one, and a few of more than 8 bits, are decoded.

    Every file below a folder that can be decoded by its suffix is an image, links are followed, and
    hidden files are not read. If every image lies below top-level folders called train, training,
    val, valid, validation, dev, test or testing, these are the splits. Within a split, if every
    image lies in a folder and there are several, the first folder below the split is its class.
    One line in the log says what was read and what was left, and images that are not read are
    named.

    Args:
        dataset: One of

            - ``fashion-mnist-sample``: 10,000 training and 2,000 test images that come with the
              package; ``fashion-mnist-moved-sample``: the same with each object in a place, a
              size and a turn of its own, see `move_objects`;
            - a folder or pattern of images, such as ``photos/**/*.jpg``, or of .npy files, one
              image each, with any number of channels. metadata.csv, .jsonl or .parquet with a
              column ``file_name`` gives labels and other columns;
            - an archive of images, or a folder of archives: .zip, .tar.gz and its like;
            - a .parquet file, a .tar file in webdataset format, a folder or pattern of either;
            - a .csv or .jsonl file with a column of paths, relative to the file's folder;
            - a folder written by ``save_to_disk``;
            - a Hub id such as ``uoft-cs/cifar10``;
            - a ``datasets.Dataset``, ``DatasetDict`` or ``IterableDataset``, or a list of paths,
              PIL images or arrays, which have no labels and form the split train.
        split: ``train``, ``test`` or any split expression of ``datasets``, such as ``train[:10%]``.
            ``val``, ``valid``, ``validation`` and ``dev`` are names of one split.
        in_chans: Channels to decode to: 1 (gray), 3 (RGB) or 4 (RGBA) for image files; for arrays,
            the number that they have.
        image_column: Column with the images; found by its type if None, then by the paths in it. A
            column of nested lists must be named.
        label_column: Column with labels, names or whole numbers; found by its type, then by its
            name, if None.
        streaming: Read rows in order as they are needed, without preparing or downloading the
            whole data set; ``split`` must then be a whole split.
        value_range: Stored values that become 0 and 255, in images of any type, with a straight
            line between them and clipping beyond; ``auto`` takes them from a sample of images. If
            None, 16-bit images are scaled over their full range.
        background: Color behind transparent pixels, such as ``white`` or ``#ff8800``; ``drop``
            takes the colors stored beneath. White if None, or for a model that of its training.
            With 4 channels transparency is kept.
        max_pixels: Most pixels of an image; ``2 * PIL.Image.MAX_IMAGE_PIXELS`` if None.

    Raises:
        FileNotFoundError: If there is no data set of that name.
        OSError: If ``datasets`` cannot write its cache, or that has no locks.
        ValueError: If the split or a column does not exist, there are no images, they do not have
            ``in_chans`` channels, a stream is to be sliced, the range does not rise, or the
            background is no color.
        TypeError: If an object is no data set.
    """
    from datasets import IterableDataset

    color_of(background)
    named = name_of(dataset)
    with named_errors(named, split):
        rows, count, root, own, split = read(dataset, split, streaming)
    if count == 0:
        raise ValueError(f"data set {named}, split {split!r}, is empty")
    paths = None
    with named_errors(named, split):
        if rows.features is None:  # a stream of unknown columns; nothing public looks at its rows
            rows = rows._resolve_features()
        if root is not None and (image_column or not has_images(rows.features)):
            paths = find_path_column(rows, image_column)
    image_column = paths or find_image_column(rows.features, image_column)
    if label_column == image_column:
        raise ValueError(f"{option('label_column')} {label_column!r} is the column with the images")
    label_column = find_label_column(rows.features, label_column)
    if label_column == image_column:  # called like one of labels
        label_column = None
    rows = rows.select_columns([image_column] + ([label_column] if label_column else []))
    if paths is not None:
        rows = images_at_paths(rows, paths, root)
    rows = undecoded(rows, image_column, isinstance(rows, IterableDataset))
    if own is not None:
        rows = confined(rows, image_column, own)
    with named_errors(named, split):
        first = list(rows.take(1))
    if not first:
        raise ValueError(f"data set {named}, split {split!r}, is empty")
    try:
        decode_image(first[0][image_column], in_chans, max_pixels=max_pixels)
    except WrongChannels as error:
        raise ValueError(f"data set {named}: {error}") from error
    except BrokenImage:
        pass  # may be one of many; readers of all images decide how many may be broken
    value_range = settle_range(
        rows, image_column, value_range, in_chans=in_chans, max_pixels=max_pixels
    )
    return Source(
        rows,
        image_column,
        label_column,
        in_chans,
        count,
        root=root,
        value_range=value_range,
        background=background,
        max_pixels=max_pixels,
        split=split,
    )

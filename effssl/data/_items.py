"""Images of a source, decoded, with their classes."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from effssl.data._decode import decode_image, image_name
from effssl.data._labels import UNLABELED, number_classes
from effssl.data._pixels import BrokenImage

if TYPE_CHECKING:
    from effssl.data.sources import Source

logger = logging.getLogger(__name__)

_READ = 64  # rows read at a time


def has_classes(source: Source) -> bool:
    """Return whether the labels of a map-style source are classes; the log says why not."""
    if source.label_column is None:
        return False
    try:
        source.labels()
    except ValueError as error:
        logger.info("images come with the label -1: %s", error)
        return False
    return True


def items_at(source: Source, rows: list[int]) -> list[tuple[Tensor, int]]:
    """Decode the images of some rows, which are read at once; see `Source`."""
    return list(_decoded(source, source.dataset[rows], rows))


def all_items(source: Source) -> Iterator[tuple[Tensor, int]]:
    """Decode all images, in order."""
    for first, found in zip(itertools.count(0, _READ), source.dataset.iter(_READ), strict=False):
        yield from _decoded(source, found, range(first, first + _READ))


def _decoded(
    source: Source, found: dict[str, list], rows: Sequence[int]
) -> Iterator[tuple[Tensor, int]]:
    values = found[source.image_column]
    for row, value, label in zip(rows, values, _classes(source, found), strict=False):
        try:
            pixels = decode_image(
                value,
                source.in_chans,
                value_range=source.value_range,
                background=source.background,
                max_pixels=source.max_pixels,
            )
        except BrokenImage as error:
            raise BrokenImage(f"{image_name(value, f'row {row}')}: {error}") from error
        yield torch.from_numpy(pixels), label


def _classes(source: Source, found: dict[str, list]) -> list[int]:
    """Return the class of each of some rows, -1 for none."""
    column = source.label_column
    if column is not None and (source.streaming or source.has_classes):
        try:
            return number_classes(found[column], source.class_names, column)
        except ValueError:  # of a stream, whose labels nobody has looked at
            pass
    return [UNLABELED] * len(found[source.image_column])

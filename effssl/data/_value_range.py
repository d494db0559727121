"""Ranges of stored values: found in a sample of images, or missed."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Literal

import numpy as np

from effssl.data._decode import stored_values
from effssl.data._pixels import BrokenImage
from effssl.hints import option

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)

# Dead pixels, saturation and missing data would set a range from the least to the largest value.
# They are fewer than one value in a thousand of most images, and to clip as many at both ends of
# others changes little that can be seen.
PERCENTILES = (0.1, 99.9)
_SAMPLED = 256  # images looked at for a range
_LOOKED_AT = 32  # images looked at for a warning
_VALUES = 2**14  # values taken of an image
_SHARDS = 8  # shards of a stream that the sample comes from
_DARK = 0.25  # share of the full range below which values are worth a warning


def settle_range(
    rows: Dataset | IterableDataset,
    column: str,
    value_range: Sequence[float] | Literal["auto"] | None,
    *,
    in_chans: int,
    max_pixels: int | None,
) -> tuple[float, float] | None:
    """Check a range, or find one in a sample of images if it is ``auto``.

    The sample is 256 images, evenly spaced; of a stream, the first ones of up to eight shards.
    Without a range, deep images that would be nearly black in 8 bits are worth a warning.

    Args:
        rows: Rows with undecoded images.
        column: Image column.
        value_range: Values that become black and white, ``auto``, or None.
        in_chans: Channels to decode to.
        max_pixels: Most pixels of an image.

    Raises:
        ValueError: If the range is not two rising numbers, or the sample has none.
    """
    options = {"in_chans": in_chans, "max_pixels": max_pixels}
    if value_range is None:
        _warn_of_darkness(_sample(rows, column, _LOOKED_AT, most_shards=1), options)
        return None
    if value_range == "auto":
        return _found(_sample(rows, column, _SAMPLED, most_shards=_SHARDS), options)
    pair = [] if isinstance(value_range, str | Real) else list(value_range)
    numbers = [n for n in pair if isinstance(n, Real) and math.isfinite(n)]
    if len(pair) != 2 or len(numbers) != 2:
        raise ValueError(
            f"{option('value_range')} must be two numbers, auto or None; got {value_range!r}"
        )
    low, high = map(float, numbers)
    if not low < high:
        raise ValueError(
            f"{option('value_range')} must rise from LOW to HIGH; got {low:g} {high:g}"
        )
    return low, high


def _sample(
    rows: Dataset | IterableDataset, column: str, most: int, most_shards: int
) -> Iterator[object]:
    """Yield evenly spaced cells, or in a stream the first ones of some shards."""
    if hasattr(rows, "__len__"):
        count = min(most, len(rows))
        for i in range(count):
            yield rows[i * len(rows) // count][column]
        return
    count, left = rows.num_shards, most
    # to open a shard takes a request; more are opened only where they are small
    first = [i * count // min(most_shards, count) for i in range(min(most_shards, count))]
    for shard in [*first, *sorted(set(range(count)) - set(first))]:
        for row in rows.shard(count, shard).take(min(left, math.ceil(most / len(first)))):
            left -= 1
            yield row[column]
        if not left:
            return


def _found(cells: Iterable[object], options: dict) -> tuple[float, float]:
    taken, images = [], 0
    for cell in cells:
        try:
            values = stored_values(cell, **options)[0].reshape(-1)
        except BrokenImage:
            continue
        values = values[:: math.ceil(len(values) / _VALUES)].astype(np.float64)
        taken.append(values[np.isfinite(values)])
        images += 1
    pool = np.concatenate(taken) if taken else np.empty(0)
    if not len(pool):
        raise ValueError(
            f"{option('value_range')} auto: no image of the sample can be read; give LOW HIGH"
        )
    low, high = (
        float(np.percentile(pool, percent, method=method))  # a value that is there
        for percent, method in zip(PERCENTILES, ("lower", "higher"), strict=True)
    )
    if low == high:
        raise ValueError(
            f"{option('value_range')} auto: nearly all values of {images} images are {low:g}; give "
            "LOW HIGH"
        )
    logger.info(
        "value range %s %s (auto: percentiles %g and %g of %d images, with values from %s to %s)",
        *(_shown(low), _shown(high), *PERCENTILES, images, _shown(pool.min()), _shown(pool.max())),
    )
    return low, high


def _warn_of_darkness(cells: Iterable[object], options: dict) -> None:
    """Warn if the values of all deep images among these lie far below their full range."""
    largest, of, images = 0.0, 0.0, 0
    for cell in cells:
        try:
            found = stored_values(cell, **options, deep_only=True)
        except BrokenImage:
            continue
        if found is None or not found[0].size:
            continue
        values, full = found
        images += 1
        top = float(values.max())
        if not top < _DARK * full:
            return
        if top * of >= largest * full:  # as a share of the full range
            largest, of = top, full
    if largest > 0:  # of deep images that are not black
        logger.warning(
            "the largest value in %d images of more than 8 bits is %s, of %s that they may have: "
            "in 8 bits they are nearly black; give %s 0 %s, or auto",
            *(images, _shown(largest), _shown(of), option("value_range"), _shown(largest)),
        )


def _shown(value: float) -> str:
    return f"{value:.10g}"

"""Rows of undecoded images in memory, without the cache of ``datasets``."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from effssl.data._moved import SIDE, move_objects
from effssl.data._paths import file_cell

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

IMAGE, LABEL = "image", "label"
_LOSSLESS = {"1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16", "F", "CMYK", "YCbCr", "LAB"}


def rows_of_cells(
    cells: Sequence[str],
    classes: Sequence[str] | None = None,
    *,
    names: Sequence[str] = (),
    columns: Mapping[str, pyarrow.ChunkedArray] | None = None,
) -> Dataset:
    """Make rows of images in files.

    Args:
        cells: Cell of each image, from `effssl.data._paths`.
        classes: Class of each image, if they have classes.
        names: All classes, in the order in which they are numbered.
        columns: More columns, a value for each image. One called label takes the place of classes.
    """
    import pyarrow
    import xxhash
    from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image

    paths = pyarrow.array(cells, pyarrow.string())
    features = Features({IMAGE: Image(decode=False)})
    data = {
        IMAGE: pyarrow.StructArray.from_arrays(
            [pyarrow.nulls(len(cells), pyarrow.binary()), paths], ["bytes", "path"]
        )
    }
    if classes is not None:
        number = {name: i for i, name in enumerate(names)}
        features[LABEL] = ClassLabel(names=list(names))
        data[LABEL] = pyarrow.array((number[name] for name in classes), pyarrow.int64())
    for name, values in (columns or {}).items():
        features[name] = Features.from_arrow_schema(pyarrow.schema({name: values.type}))[name]
        data[name] = values
    # hashing the buffers takes milliseconds; datasets would pickle the whole table for it
    hasher = xxhash.xxh3_128()
    for values in data.values():
        for array in values.chunks if isinstance(values, pyarrow.ChunkedArray) else [values]:
            for buffer in array.buffers():
                hasher.update(b"" if buffer is None else memoryview(buffer))
    info = DatasetInfo(features=features)
    return Dataset(pyarrow.table(data), info=info, fingerprint=hasher.hexdigest())


def rows_of_parquet(file: Path) -> Dataset:
    """Read a parquet file that ``datasets`` has written, whole, into memory."""
    import pyarrow
    import pyarrow.parquet
    import xxhash
    from datasets import Dataset, DatasetInfo, Features

    content = file.read_bytes()
    table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
    info = DatasetInfo(features=Features.from_arrow_schema(table.schema))
    return Dataset(table, info=info, fingerprint=xxhash.xxh3_128_hexdigest(content))


def rows_of_moved(rows: Dataset) -> Dataset:
    """Return rows of the packaged sample with their objects moved, as files in memory."""
    import pyarrow
    import xxhash
    from datasets import Dataset, DatasetInfo

    table = rows.with_format("arrow")[:]
    images = np.empty((len(rows), 28, 28), np.uint8)
    for image, cell in zip(images, table[IMAGE].to_pylist(), strict=True):
        # at half the cost of decode_image, which anybody's files need
        image[:] = PIL.Image.open(io.BytesIO(cell["bytes"]), formats=["PNG"])
    moved = move_objects(images)
    header = b"P5 %d %d 255\n" % (SIDE, SIDE)  # of a PGM file, whose bytes no library decides
    contents = [header + image.tobytes() for image in moved]
    cells = [pyarrow.array(contents, pyarrow.binary()), pyarrow.nulls(len(rows), pyarrow.string())]
    image = pyarrow.StructArray.from_arrays(cells, ["bytes", "path"])
    table = table.set_column(table.column_names.index(IMAGE), table.schema.field(IMAGE), image)
    fingerprint = xxhash.xxh3_128_hexdigest(moved.tobytes())
    return Dataset(table, info=DatasetInfo(features=rows.features), fingerprint=fingerprint)


def rows_of_images(images: Iterable[object]) -> Dataset:
    """Make rows of paths, PIL images or arrays.

    PIL images and arrays are copied, without loss, as uncompressed files in memory.

    Raises:
        TypeError: If an item is none of them.
        FileNotFoundError: If there is no such file.
    """
    import pyarrow
    from datasets import Dataset, DatasetInfo, Features, Image

    contents, paths = [], []
    for place, image in enumerate(images):
        if isinstance(image, str | os.PathLike):
            path = os.path.abspath(os.path.expanduser(image))
            if not os.path.isfile(path):
                raise FileNotFoundError(f"no file {os.fspath(image)!r}, item {place} of the list")
            contents.append(None)
            paths.append(file_cell(path))
        else:
            contents.append(_bytes(image, place))
            paths.append(None)
    cells = [pyarrow.array(contents, pyarrow.binary()), pyarrow.array(paths, pyarrow.string())]
    table = pyarrow.table({IMAGE: pyarrow.StructArray.from_arrays(cells, ["bytes", "path"])})
    return Dataset(table, info=DatasetInfo(features=Features({IMAGE: Image(decode=False)})))


def _bytes(image: object, place: int) -> bytes:
    file = io.BytesIO()
    if isinstance(image, PIL.Image.Image):
        whole = image if image.mode in _LOSSLESS else image.convert("RGBA")
        whole.save(file, "TIFF", exif=image.getexif())
        return file.getvalue()
    try:
        array = np.asarray(image)
    except (TypeError, ValueError):
        array = np.empty(0, object)
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3):
        raise TypeError(
            f"item {place} of the list is a {type(image).__name__}: a list of images holds paths, "
            "PIL images, or arrays (H, W), (C, H, W) or (H, W, C)"
        )
    np.save(file, array)
    return file.getvalue()

"""Files called metadata, whose rows say something about the images beside them.

As in image folders of ``datasets``: metadata.csv, metadata.jsonl or metadata.parquet with a column
``file_name``, relative to the file's own folder.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effssl.data._paths import printable
from effssl.shown import one_line, shown

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".csv", ".jsonl", ".parquet"})
_KEY = "file_name"
_NAMED = 5  # files that a message names


def read_metadata(
    folder: Path, files: Sequence[str], images: Sequence[str]
) -> tuple[dict[str, pyarrow.ChunkedArray], list[str]]:
    """Read what metadata files say about images.

    Args:
        folder: Folder of the data set.
        files: Paths of files relative to it; those called metadata are read.
        images: Paths of the images relative to it.

    Returns:
        Columns by name, a value for each image, null for those without a row; and the files that
        were read.

    Raises:
        ValueError: If a file cannot be read, has far more rows than there are images, or the types
            in several differ.
    """
    import pyarrow
    import pyarrow.compute

    tables, used, place_of, first, extra = [], [], {}, 0, []
    places = {image: place for place, image in enumerate(images)} if files else {}
    for file in files:
        if Path(file).stem != "metadata":
            continue
        table = read_table(folder / file, 10 * len(images) + 10_000)
        if _KEY not in table.column_names:
            continue
        parent = file.rpartition("/")[0]
        for row, name in enumerate(table[_KEY].to_pylist()):
            path = f"{parent}/{name}" if parent else str(name)
            place = places.get(path.replace("/./", "/").removeprefix("./"))
            if place is None:
                extra.append(path)
            else:
                place_of.setdefault(place, first + row)
        first += len(table)
        tables.append(table.drop_columns([_KEY]))
        used.append(file)
    if not tables:
        return {}, []
    without = len(images) - len(place_of)
    logger.info("metadata: rows for %s of %s images", f"{len(place_of):,}", f"{len(images):,}")
    if without:
        missing = [image for place, image in enumerate(images) if place not in place_of]
        logger.warning("metadata: no row for %s: they have no label", _some(missing))
    if extra:
        logger.warning("metadata: no image for the rows of %s", _some(extra))
    try:
        table = pyarrow.concat_tables(tables, promote_options="permissive")
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise ValueError(
            f"the metadata files of {folder} do not fit together: {one_line(error)}"
        ) from error
    rows = pyarrow.array([place_of.get(place) for place in range(len(images))], pyarrow.int64())
    return {name: table[name].take(rows) for name in table.column_names}, used


def read_table(file: Path, most_rows: int | None = None) -> pyarrow.Table:
    """Read a .csv, .jsonl or .parquet file.

    Args:
        file: Path of the file.
        most_rows: Most rows of a .parquet file, which may be tiny and have any number of them.

    Raises:
        ValueError: If it cannot be read as what it is called, has more rows, or two columns of one
            name.
    """
    import pyarrow
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    readers = {
        ".csv": pyarrow.csv.read_csv,
        ".jsonl": pyarrow.json.read_json,
        ".parquet": pyarrow.parquet.read_table,
    }
    suffix = file.suffix.lower()
    try:
        if most_rows is not None and suffix == ".parquet":
            count = pyarrow.parquet.read_metadata(file).num_rows
            if count > most_rows:
                raise ValueError(f"{file} has {count:,} rows; {most_rows:,} are read at most")
        table = readers[suffix](file)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file} cannot be read: {one_line(error)}") from error
    twice = [name for name, times in Counter(table.column_names).items() if times > 1]
    if twice:
        raise ValueError(f"{file} has several columns called {shown(twice[0])}: rename them")
    return table


def _some(paths: Sequence[str]) -> str:
    named = ", ".join(printable(path) for path in paths[:_NAMED])
    more = f" and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else ""
    return f"{len(paths):,} ({named}{more})"

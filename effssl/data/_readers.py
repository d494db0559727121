"""Resolve a folder, glob, file or Hub id to a data set, map-style or streaming."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from effssl.data._folders import (
    READERS,
    array_splits,
    image_suffixes,
    look_into,
    rows_of_files,
)

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, IterableDataset

    _Rows = tuple[Dataset | IterableDataset, int | None]  # and their number

SAMPLE = "fashion-mnist-sample"
_SAMPLE_FOLDER = Path(__file__).parent / "sample"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_STREAM_SHARDS = 64


def read(dataset: str, split: str, streaming: bool) -> _Rows:
    """Return the rows of a split with all their columns, and their number if it is known.

    Raises:
        FileNotFoundError: If there is no data set of that name.
        ValueError: If files of that kind cannot be read, or a stream is to be sliced.
        Exception: Any other error of ``datasets``.
    """
    if streaming and not re.fullmatch(r"[\w.-]+", split):
        raise ValueError("a stream has no slices or sums of splits; name one whole split")
    path = _SAMPLE_FOLDER if dataset == SAMPLE else Path(dataset).expanduser()
    if path.is_dir():
        return _read_folder(path, split, streaming)
    if glob.has_magic(dataset) and not path.exists():
        return _read_files(_globbed(path), split, streaming)
    if path.suffix.lower() in READERS and path.is_file():
        return _read_files([path], split, streaming)
    if path.is_file():
        raise ValueError(
            "a file must be .parquet or .tar; images go in a folder, or are named by a pattern "
            "such as photos/*.jpg"
        )
    if not _HUB_ID.fullmatch(dataset):
        raise FileNotFoundError(
            f"no data set at {dataset!r}: there is no such file or folder, and a Hub id is "
            "owner/name"
        )
    return _load(dataset, split, streaming)


def is_public(dataset: str) -> bool:
    """Tell whether others can get the data set: the sample or a Hub id, not local files."""
    return dataset == SAMPLE or (
        _HUB_ID.fullmatch(dataset) is not None and not Path(dataset).expanduser().exists()
    )


def _read_folder(path: Path, split: str, streaming: bool) -> _Rows:
    from datasets import load_from_disk

    if (path / "dataset_dict.json").is_file():
        return _pick(dict(load_from_disk(path)), split, streaming)
    if (path / "state.json").is_file():
        return _pick({"train": load_from_disk(path)}, split, streaming)
    arrays, captioned = look_into(path)
    if arrays:
        return _pick(rows_of_files(array_splits(path, arrays)), split, streaming)
    # absolute, or a folder called "parquet" would be taken for the reader of that name
    name = str(path.resolve())
    if captioned:
        return _load("imagefolder", split, streaming, data_dir=name)
    return _load(name, split, streaming)


def _read_files(files: list[Path], split: str, streaming: bool) -> _Rows:
    suffixes = {file.suffix.lower() for file in files}
    if len(suffixes) == 1 and suffixes <= READERS.keys():
        names = [glob.escape(str(file.resolve())) for file in files]
        return _load(READERS[suffixes.pop()], split, streaming, data_files={"train": names})
    if suffixes != {".npy"} and not suffixes <= image_suffixes():
        raise ValueError(
            f"these are {', '.join(sorted(suffixes))} files; a pattern must give .parquet, .tar, "
            ".npy or image files, of one of these kinds"
        )
    same_depth = len({len(file.parts) for file in files}) == 1
    entries = [(file, file.parent.name if same_depth else None) for file in files]
    return _pick(rows_of_files({"train": entries}), split, streaming)


def _globbed(pattern: Path) -> list[Path]:
    files = sorted(Path(name) for name in glob.glob(str(pattern), recursive=True))
    files = [file for file in files if file.is_file()]
    if not files:
        raise FileNotFoundError(f"no data set at {str(pattern)!r}: no file matches that pattern")
    return files


def _pick(splits: dict[str, Dataset], split: str, streaming: bool) -> _Rows:
    """Return the rows of a split expression such as ``train[:10%]+test``."""
    from datasets import ReadInstruction, concatenate_datasets

    lengths = {name: len(rows) for name, rows in splits.items()}
    parts = ReadInstruction.from_spec(split).to_absolute(lengths)
    rows = [splits[part.splitname].select(range(part.from_, part.to)) for part in parts]
    rows = rows[0] if len(rows) == 1 else concatenate_datasets(rows)
    if not streaming or not len(rows):
        return rows, len(rows)
    return rows.to_iterable_dataset(num_shards=min(_STREAM_SHARDS, len(rows))), len(rows)


def _load(name: str, split: str, streaming: bool, **where: object) -> _Rows:
    from datasets import Features, Image, Value, load_dataset_builder

    builder = load_dataset_builder(name, **where)
    images = []
    if builder.name == "webdataset":
        # as Image, a member of a tar would be read from the file of that name in this folder
        features = next(iter(builder.as_streaming_dataset().values())).features
        images = [column for column, kind in features.items() if isinstance(kind, Image)]
        where["features"] = Features(features | dict.fromkeys(images, Value("binary")))
        builder = load_dataset_builder(name, **where)
    if streaming:
        rows, count = builder.as_streaming_dataset(split=split), _count(builder, split)
    else:
        builder.download_and_prepare()
        rows = builder.as_dataset(split=split)
        count = len(rows)
    for column in images:
        rows = rows.cast_column(column, Image(decode=False))
    return rows, count


def _count(builder: DatasetBuilder, split: str) -> int | None:
    """Return the number of rows of a stream, if it is known without reading the stream."""
    import pyarrow.parquet

    declared = (builder.info.splits or {}).get(split)
    if declared is not None and declared.num_examples:
        return declared.num_examples
    files = [str(file) for file in (builder.config.data_files or {}).get(split, [])]
    if not files or not all(os.path.isfile(file) for file in files):
        return None
    suffixes = {os.path.splitext(file)[1].lower() for file in files}
    if suffixes == {".parquet"}:
        return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    # with a metadata file or an archive, rows and files differ in number
    return len(files) if suffixes <= set(getattr(builder, "EXTENSIONS", ())) else None

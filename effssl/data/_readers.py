"""Resolve a folder, pattern, file, Hub id or object to rows, map-style or streaming."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from effssl.data._archives import is_archive
from effssl.data._confined import own_folders
from effssl.data._folders import FolderListing, is_hidden, list_folder, suffix_of
from effssl.data._image_folders import ImageFolder, read_archives, read_listing
from effssl.data._layout import SPLITS, arrange
from effssl.data._metadata import SUFFIXES as TABLES
from effssl.data._metadata import read_table
from effssl.data._paths import printable
from effssl.data._rows import rows_of_images, rows_of_moved, rows_of_parquet
from effssl.data._splits import resolve_split
from effssl.hints import nearest
from effssl.local import HUB_DATASET, SAMPLE, SAMPLES, check_dataset_name
from effssl.shown import one_line

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, IterableDataset

_SAMPLE_FOLDER = Path(__file__).parent / "sample"
_SHARDS = {".parquet": "parquet", ".tar": "webdataset"}  # readers of datasets
_ARCHIVE_PARTS = frozenset({".zip", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz"})
_KEPT = TABLES | _SHARDS.keys() | _ARCHIVE_PARTS
_STREAM_SHARDS = 64


class Found(NamedTuple):
    """Rows of a split with all their columns.

    Attributes:
        rows: The rows.
        count: Their number; None for a stream whose length is not known.
        root: Absolute path of the folder to which paths in the rows are relative, if they lie in
            one.
        own: Folders, and beginnings of addresses, of all files that the rows may name; None if
            they may name any.
        split: Split expression, in the names that the data set has.
    """

    rows: Dataset | IterableDataset
    count: int | None
    root: str | None
    own: tuple[str, ...] | None = None
    split: str = "train"


def read(dataset: object, split: str, streaming: bool) -> Found:
    """Return the rows of a split.

    Raises:
        FileNotFoundError: If there is no data set of that name.
        ValueError: If files of that kind cannot be read, or a stream is to be sliced.
        TypeError: If an object is no data set.
        Exception: Any other error of ``datasets``.
    """
    if streaming and not re.fullmatch(r"[\w.-]+", split):
        raise ValueError("a stream has no slices or sums of splits; name one whole split")
    if not isinstance(dataset, str | os.PathLike):
        return _read_object(dataset, split, streaming)
    if dataset in SAMPLES:
        return _read_sample(dataset, split, streaming)
    name = os.fspath(dataset)
    if not name:
        raise ValueError("the name is empty: give a folder, a file, a pattern or a Hub id")
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:  # no such user
        raise FileNotFoundError(f"no data set at {name!r}: {one_line(error)}") from error
    if path.is_dir():
        return _read_folder(path, split, streaming)
    if path.is_file():
        return _read_files([path.absolute()], path.parent.absolute(), name, split, streaming)
    if glob.has_magic(name):
        root, files = _globbed(path)
        return _read_files(files, root, name, split, streaming)
    check_dataset_name(name)
    return _load(name, split, streaming)._replace(own=own_folders(name))


def is_public(dataset: object) -> bool:
    """Return whether others can get the data set: a sample or a Hub id, not local files."""
    return isinstance(dataset, str) and (
        dataset in SAMPLES
        or (HUB_DATASET.fullmatch(dataset) is not None and not Path(dataset).expanduser().exists())
    )


def _read_sample(name: str, split: str, streaming: bool) -> Found:
    files = {part: _SAMPLE_FOLDER / f"{part}.parquet" for part in ("train", "test")}
    rows = {part: rows_of_parquet(file) for part, file in files.items()}
    if name == SAMPLE:
        return _pick(rows, split, streaming)
    chosen = _pick(rows, split, False)  # an image moves the same alone, so no other has to
    moved = {"train": rows_of_moved(chosen.rows)}
    return _pick(moved, "train", streaming)._replace(split=chosen.split)


def _read_object(dataset: object, split: str, streaming: bool) -> Found:
    from datasets import Dataset, DatasetDict, IterableDataset

    if isinstance(dataset, IterableDataset):
        if split != "train":
            raise ValueError(f"a stream given as an object has no split {split!r}, only train")
        return Found(dataset, None, None)
    if isinstance(dataset, DatasetDict):
        return _pick(dict(dataset), split, streaming)
    if isinstance(dataset, dict) or not hasattr(dataset, "__iter__"):
        raise TypeError(
            f"a {type(dataset).__name__} is no data set: give a name, a path, a datasets.Dataset, "
            "or a list of paths, PIL images or arrays"
        )
    rows = dataset if isinstance(dataset, Dataset) else rows_of_images(dataset)
    return _pick({"train": rows}, split, streaming)


def _read_folder(path: Path, split: str, streaming: bool) -> Found:
    from datasets import load_from_disk

    root = str(path.absolute())
    if (path / "dataset_dict.json").is_file():
        return _pick(dict(load_from_disk(path)), split, streaming)._replace(root=root)
    if (path / "state.json").is_file():
        return _pick({"train": load_from_disk(path)}, split, streaming)._replace(root=root)
    listing = list_folder(root, _KEPT)
    if listing.images:
        return _pick_from(read_listing(str(path), root, listing), root, split, streaming)
    archives = [file for file in listing.other_files if is_archive(file)]
    if archives:
        others = FolderListing(others=listing.others.copy())
        for archive in archives:
            others.others[suffix_of(archive)] -= 1
        found = read_archives(str(path), root, archives, +others.others)
        return _pick_from(found, root, split, streaming)
    shards = [file for file in listing.other_files if suffix_of(file) in _SHARDS]
    if not shards:
        there = ", ".join(
            f"{n:,} {printable(suffix)}" for suffix, n in listing.others.most_common(5)
        )
        raise FileNotFoundError(
            f"no images, archives, .parquet or .tar files in {str(path)!r}, where hidden files are "
            f"not counted: there {'are ' + there if there else 'is nothing'}"
        )
    # not by the folder's name: datasets would read what a README in it names, wherever that lies
    files = [Path(root, file) for file in shards if suffix_of(file) == suffix_of(shards[0])]
    return _load_shards(files, Path(root), split, streaming)


def _read_files(files: list[Path], root: Path, name: str, split: str, streaming: bool) -> Found:
    listing = FolderListing()
    for file in files:
        path = file.relative_to(root).as_posix()
        listing.add(path, file.name, _KEPT)
    if listing.images:
        return _pick_from(read_listing(name, str(root), listing), str(root), split, streaming)
    archives = [file for file in listing.other_files if is_archive(file)]
    if archives:
        found = read_archives(name, str(root), archives, FolderListing().others)
        return _pick_from(found, str(root), split, streaming)
    suffixes = {file.suffix.lower() for file in files}
    if len(suffixes) == 1 and suffixes <= _SHARDS.keys():
        return _load_shards(files, root, split, streaming)
    if len(suffixes) == 1 and suffixes <= TABLES:
        return _pick({"train": _rows_of_tables(files)}, split, streaming)._replace(root=str(root))
    raise ValueError(
        f"these are {', '.join(sorted(suffixes)) or 'no'} files: a file or a pattern must give "
        "images, .npy, an archive such as .zip, .parquet, .tar, .csv or .jsonl, of one kind"
    )


def _globbed(pattern: Path) -> tuple[Path, list[Path]]:
    """Return the folder before the first wildcard, and the files that match; folders are listed."""
    pattern = pattern.absolute()
    parts = pattern.parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    root, found = Path(*parts[:fixed]), set()
    for name in glob.glob(str(pattern), recursive=True):
        path = Path(name)
        if any(is_hidden(part) for part in path.relative_to(root).parts):
            continue
        if path.is_dir() and parts[-1] != "**":
            listing = list_folder(name, _KEPT)
            found.update(path / inner for inner in (*listing.images, *listing.other_files))
        elif path.is_file():
            found.add(path)
    if not found:
        raise FileNotFoundError(
            f"no data set at {str(pattern)!r}: no file matches that pattern{nearest(root)}"
        )
    return root, sorted(found)


def _rows_of_tables(files: Sequence[Path]) -> Dataset:
    from datasets import Dataset, concatenate_datasets

    return concatenate_datasets([Dataset(read_table(file)) for file in files])


def _pick_from(folder: ImageFolder, root: str, split: str, streaming: bool) -> Found:
    if not folder.rows:
        raise FileNotFoundError(f"no images in {folder.name!r}")
    found = _pick(folder.rows, split, streaming)
    folder.log(split)
    return found._replace(root=root)


def _pick(splits: dict[str, Dataset], split: str, streaming: bool) -> Found:
    """Return the rows of a split expression such as ``train[:10%]+test``."""
    from datasets import ReadInstruction, concatenate_datasets

    split = resolve_split(split, splits)
    lengths = {name: len(rows) for name, rows in splits.items()}
    parts = ReadInstruction.from_spec(split).to_absolute(lengths)
    # a slice of all rows would cost an index of them
    chosen = [
        rows if (part.from_, part.to) == (0, len(rows)) else rows.select(range(part.from_, part.to))
        for part, rows in ((part, splits[part.splitname]) for part in parts)
    ]
    rows = chosen[0] if len(chosen) == 1 else concatenate_datasets(chosen)
    if not streaming or not len(rows):
        return Found(rows, len(rows), None, split=split)
    stream = rows.to_iterable_dataset(num_shards=min(_STREAM_SHARDS, len(rows)))
    return Found(stream, len(rows), None, split=split)


def _load_shards(files: Sequence[Path], root: Path, split: str, streaming: bool) -> Found:
    """Read parquet or tar files, split by folders or by the words that their names begin with."""
    paths = [file.relative_to(root).as_posix() for file in files]
    begins = re.compile(rf"({'|'.join(SPLITS)})[-_.\d]")
    words = [begins.match(file.name) for file in files]
    arranged = arrange([f"{word[1]}/{i}" for i, word in enumerate(words)] if all(words) else paths)
    if len(files) == 1:
        arranged = {"train": next(iter(arranged.values()))}
    names = {
        name: [glob.escape(str(files[place].resolve())) for place in found.images]
        for name, found in arranged.items()
    }
    reader = _SHARDS[files[0].suffix.lower()]
    return _load(reader, split, streaming, data_files=names)._replace(root=str(root))


def _load(name: str, split: str, streaming: bool, **where: object) -> Found:
    from datasets import Features, Image, Value, load_dataset_builder

    builder = load_dataset_builder(name, **where)
    images = []
    if builder.name == "webdataset":
        # as Image, a member of a tar would be read from the file of that name in this folder
        features = next(iter(builder.as_streaming_dataset().values())).features
        images = [column for column, kind in features.items() if isinstance(kind, Image)]
        where["features"] = Features(features | dict.fromkeys(images, Value("binary")))
        builder = load_dataset_builder(name, **where)
    there = [*(builder.info.splits or ()), *(builder.config.data_files or ())]
    if there and split != "all":  # a word of datasets
        split = resolve_split(split, dict.fromkeys(there))
    if streaming:
        rows, count = builder.as_streaming_dataset(split=split), _count(builder, split)
    else:
        builder.download_and_prepare()
        rows = builder.as_dataset(split=split)
        count = len(rows)
    for column in images:
        rows = rows.cast_column(column, Image(decode=False))
    return Found(rows, count, None, split=split)


def _count(builder: DatasetBuilder, split: str) -> int | None:
    """Return the number of rows of a stream, if it is known without reading the stream."""
    import pyarrow.parquet

    declared = (builder.info.splits or {}).get(split)
    if declared is not None and declared.num_examples:
        return declared.num_examples
    files = [str(file) for file in (builder.config.data_files or {}).get(split, [])]
    if not files or not all(os.path.isfile(file) for file in files):
        return None
    if {os.path.splitext(file)[1].lower() for file in files} != {".parquet"}:
        return None  # an archive does not tell its number of images
    return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)

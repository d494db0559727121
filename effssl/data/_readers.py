"""Rows of images from whatever a name stands for, as maps or as streams."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, IterableDataset

SAMPLE = "fashion-mnist-sample"
_SAMPLE_FOLDER = Path(__file__).parent / "sample"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_READERS = {".parquet": "parquet", ".tar": "webdataset"}
_TEXTS = {".txt", ".json", ".xml"}
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_STREAM_SHARDS = 64


def read(dataset: str, split: str, streaming: bool) -> tuple[Dataset | IterableDataset, int | None]:
    """Rows of a split with every column that they have, and their number where it is known.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If files of that kind cannot be read, or a stream is to be sliced.
        Exception: What ``datasets`` raises besides.
    """
    if streaming and not re.fullmatch(r"[\w.-]+", split):
        raise ValueError("a stream has no slices or sums of splits; name one whole split")
    path = _SAMPLE_FOLDER if dataset == SAMPLE else Path(dataset).expanduser()
    if path.is_dir():
        return _read_folder(path, split, streaming)
    if glob.has_magic(dataset) and not path.exists():
        return _read_files(_globbed(path), split, streaming)
    if path.suffix.lower() in _READERS and path.is_file():
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
    """Whether a data set is one that others have too, and not files of this machine."""
    return dataset == SAMPLE or (
        _HUB_ID.fullmatch(dataset) is not None and not Path(dataset).expanduser().exists()
    )


def _read_folder(path: Path, split: str, streaming: bool):
    from datasets import load_from_disk

    if (path / "dataset_dict.json").is_file():
        return _pick(dict(load_from_disk(path)), split, streaming)
    if (path / "state.json").is_file():
        return _pick({"train": load_from_disk(path)}, split, streaming)
    arrays, captioned = _look_into(path)
    if arrays:
        return _pick(_rows_of_files(_array_splits(path, arrays)), split, streaming)
    # absolute, or a folder called "parquet" would be taken for the reader of that name
    name = str(path.resolve())
    if captioned:
        return _load("imagefolder", split, streaming, data_dir=name)
    return _load(name, split, streaming)


def _read_files(files: list[Path], split: str, streaming: bool):
    suffixes = {file.suffix.lower() for file in files}
    if len(suffixes) == 1 and suffixes <= _READERS.keys():
        names = [glob.escape(str(file.resolve())) for file in files]
        return _load(_READERS[suffixes.pop()], split, streaming, data_files={"train": names})
    if suffixes != {".npy"} and not suffixes <= _image_suffixes():
        raise ValueError(
            f"these are {', '.join(sorted(suffixes))} files; a pattern must give .parquet, .tar, "
            ".npy or image files, of one of these kinds"
        )
    same_depth = len({len(file.parts) for file in files}) == 1
    entries = [(file, file.parent.name if same_depth else None) for file in files]
    return _pick(_rows_of_files({"train": entries}), split, streaming)


def _globbed(pattern: Path) -> list[Path]:
    files = sorted(Path(name) for name in glob.glob(str(pattern), recursive=True))
    files = [file for file in files if file.is_file()]
    if not files:
        raise FileNotFoundError(f"no data set at {str(pattern)!r}: no file matches that pattern")
    return files


def _image_suffixes() -> set[str]:
    import PIL.Image

    extensions = PIL.Image.registered_extensions()
    return {suffix for suffix, format in extensions.items() if format in PIL.Image.OPEN}


def _look_into(folder: Path) -> tuple[list[Path], bool]:
    """Whether ``datasets`` would take a folder for something else than it is.

    Returns:
        The .npy files, sorted, if there is nothing else to read; and whether images have files of
        text beside them, which would count as the data where they are as many.
    """
    images, archives = _image_suffixes(), _READERS.keys() | {".zip"}
    files = []
    for parent, _, names in os.walk(folder):
        suffixes = {Path(name).suffix.lower() for name in names}
        if not images.isdisjoint(suffixes):
            plain = archives.isdisjoint(suffixes) and not (folder / "README.md").exists()
            return [], plain and not _TEXTS.isdisjoint(suffixes)
        if not archives.isdisjoint(suffixes):
            return [], False
        files += [Path(parent, name) for name in names if name.lower().endswith(".npy")]
    return sorted(files), False


def _array_splits(folder: Path, files: list[Path]) -> dict[str, list[tuple[Path, str | None]]]:
    """Files and their classes by split, from the folders they are in."""
    inner = [file.relative_to(folder).parts for file in files]
    split_folders = all(len(parts) > 1 and parts[0].lower() in _SPLITS for parts in inner)
    splits: dict[str, list[tuple[Path, str | None]]] = {}
    for file, parts in zip(files, inner, strict=True):
        split = "train"
        if split_folders:
            split, parts = _SPLITS[parts[0].lower()], parts[1:]
        splits.setdefault(split, []).append((file, parts[-2] if len(parts) > 1 else None))
    return splits


def _rows_of_files(splits: dict[str, list[tuple[Path, str | None]]]) -> dict[str, Dataset]:
    """Paths as undecoded images, with labels if every file has a class and there are several."""
    from datasets import ClassLabel, Dataset, Features, Image

    classes = {name for entries in splits.values() for _, name in entries}
    labelled = None not in classes and len(classes) > 1
    features = Features({"image": Image(decode=False)})
    if labelled:
        features["label"] = ClassLabel(names=sorted(classes))
    rows = {}
    for split, entries in splits.items():
        columns = {"image": [str(file.resolve()) for file, _ in entries]}
        if labelled:
            columns["label"] = [name for _, name in entries]
        rows[split] = Dataset.from_dict(columns, features=features)
    return rows


def _pick(splits: dict[str, Dataset], split: str, streaming: bool):
    """The rows of a split expression such as ``train[:10%]+test``."""
    from datasets import ReadInstruction, concatenate_datasets

    lengths = {name: len(rows) for name, rows in splits.items()}
    parts = ReadInstruction.from_spec(split).to_absolute(lengths)
    rows = [splits[part.splitname].select(range(part.from_, part.to)) for part in parts]
    rows = rows[0] if len(rows) == 1 else concatenate_datasets(rows)
    if not streaming or not len(rows):
        return rows, len(rows)
    return rows.to_iterable_dataset(num_shards=min(_STREAM_SHARDS, len(rows))), len(rows)


def _load(name: str, split: str, streaming: bool, **where: object):
    from datasets import Features, Image, Value, load_dataset_builder

    builder = load_dataset_builder(name, **where)
    images = []
    if builder.name == "webdataset":
        # as images, members of a tar would be read from files of that name in the current folder
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
    """Rows of a stream as far as they can be told without reading it."""
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
    # a file of metadata, or an archive, would make the rows other than the files
    return len(files) if suffixes <= set(getattr(builder, "EXTENSIONS", ())) else None

"""The rule of folders: how files and folders become images, splits and classes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

READERS = {".parquet": "parquet", ".tar": "webdataset"}
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


def image_suffixes() -> set[str]:
    """Return the suffixes of the image files that Pillow reads, such as ``.png``."""
    import PIL.Image

    extensions = PIL.Image.registered_extensions()
    return {suffix for suffix, format in extensions.items() if format in PIL.Image.OPEN}


def look_into(folder: Path) -> tuple[list[Path], bool]:
    """Look for files by which ``datasets`` would misjudge a folder.

    Returns:
        The .npy files, sorted, if there is nothing else to read; and whether text files lie beside
        images. ``datasets`` would read the text files if they are as many as the images.
    """
    images, archives = image_suffixes(), READERS.keys() | {".zip"}
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


def array_splits(folder: Path, files: list[Path]) -> dict[str, list[tuple[Path, str | None]]]:
    """Return files and their classes by split, from the names of their folders."""
    inner = [file.relative_to(folder).parts for file in files]
    split_folders = all(len(parts) > 1 and parts[0].lower() in _SPLITS for parts in inner)
    splits: dict[str, list[tuple[Path, str | None]]] = {}
    for file, parts in zip(files, inner, strict=True):
        split = "train"
        if split_folders:
            split, parts = _SPLITS[parts[0].lower()], parts[1:]
        splits.setdefault(split, []).append((file, parts[-2] if len(parts) > 1 else None))
    return splits


def rows_of_files(splits: dict[str, list[tuple[Path, str | None]]]) -> dict[str, Dataset]:
    """Make rows of undecoded images, with labels if every file has a class and they differ."""
    from datasets import ClassLabel, Dataset, Features, Image

    classes = {name for entries in splits.values() for _, name in entries}
    labeled = None not in classes and len(classes) > 1
    features = Features({"image": Image(decode=False)})
    if labeled:
        features["label"] = ClassLabel(names=sorted(classes))
    rows = {}
    for split, entries in splits.items():
        columns = {"image": [str(file.resolve()) for file, _ in entries]}
        if labeled:
            columns["label"] = [name for _, name in entries]
        rows[split] = Dataset.from_dict(columns, features=features)
    return rows

"""The rule of folders: which splits and classes the paths of images stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from effssl.data._paths import printable

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Split:
    """Images of a split.

    Attributes:
        images: Places of its images in the list that was arranged.
        classes: Name of the class of each, or None if it has no classes.
    """

    images: Sequence[int]
    classes: list[str] | None


def arrange(paths: Sequence[str]) -> dict[str, Split]:
    """Sort images into splits and classes by the folders that they lie in.

    If every image lies below top-level folders that are all called train, training, val, valid,
    validation, dev, test or testing, in any case, these are the splits; else all images are train.
    Within a split, if every image lies in a folder and there are several, the first folder is its
    class. A split with a single folder has that class if another split has it.

    Args:
        paths: Paths relative to the folder of the data set, with ``/``.

    Returns:
        Splits by name: train, validation and test, of those that there are.
    """
    tops = {path.partition("/")[0] if "/" in path else "" for path in paths}
    if all(top.lower() in SPLITS for top in tops):
        places: dict[str, list[int]] = {name: [] for name in dict.fromkeys(SPLITS.values())}
        split_of = {top: places[SPLITS[top.lower()]] for top in tops}
        for place, path in enumerate(paths):
            split_of[path.partition("/")[0]].append(place)
        depth, found = 1, {name: inside for name, inside in places.items() if inside}
    else:
        depth, found = 0, {"train": range(len(paths))}
    folders = {name: _folders(paths, inside, depth) for name, inside in found.items()}
    known = set().union(*(set(names) for names in folders.values() if names and _several(names)))
    return {
        name: Split(
            inside, folders[name] if known and known.issuperset(folders[name] or ()) else None
        )
        for name, inside in found.items()
    }


def _folders(paths: Sequence[str], places: Sequence[int], depth: int) -> list[str] | None:
    """Return the folder at a depth that each image lies in, or None if one lies in none."""
    names, shown = [], {}
    for place in places:
        parts = paths[place].split("/", depth + 1)
        if len(parts) < depth + 2:
            return None
        folder = parts[depth]
        if folder not in shown:  # one text for all images of a class
            shown[folder] = printable(folder)
        names.append(shown[folder])
    return names


def _several(names: list[str]) -> bool:
    return any(name != names[0] for name in names)

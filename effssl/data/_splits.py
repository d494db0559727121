"""Names of splits as people give them, and a split of images by class."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from effssl.data._layout import SPLITS
from effssl.hints import option
from effssl.shown import shown

_NAME = re.compile(r"\w+(\.\w+)*")


class MissingSplit(ValueError):
    """A data set has no split of that name.

    Args:
        split: Name that was given.
        there: Names of the splits that there are.
        dataset: Name of the data set, for the message.
        flag: Flag that gave the name; the option ``split`` if None.
    """

    def __init__(
        self, split: str, there: Iterable[str], dataset: str = "", flag: str | None = None
    ) -> None:
        self.split, self.there, self.dataset = split, tuple(there), dataset
        named = f"data set {dataset}" if dataset else "the data set"
        names = ", ".join(shown(name)[1:-1] for name in self.there)
        super().__init__(
            f"{named} has no split {shown(split)}, only {names}: give another name with "
            f"{flag or option('split')}"
        )


def resolve_split(split: str, there: Collection[str]) -> str:
    """Return a split expression in the names that a data set has.

    A name that it does not have stands for the one of the same meaning, by the words of the rule
    of folders: ``val``, ``valid``, ``validation`` and ``dev`` are one split, and so are ``train``
    and ``training``, ``test`` and ``testing``.

    Args:
        split: Expression such as ``train[:10%]+val``.
        there: Names of the splits of the data set.

    Raises:
        MissingSplit: If there is no such split, or several of that meaning.
    """
    parts = [part.strip() for part in split.split("+")]
    return "+".join(_resolved(part, there) for part in parts)


def names_of(split: str) -> set[str]:
    """Return the names of the splits in an expression."""
    found = (_NAME.match(part.strip()) for part in split.split("+"))
    return {name[0] for name in found if name}


def stratified_rows(
    labels: Sequence[int], test_share: float, seed: int
) -> tuple[list[int], list[int]]:
    """Choose rows of every class for a test, at random.

    Args:
        labels: Class of every row, -1 for none.
        test_share: Share of the rows of a class, rounded; one at least, and not all of them.
        seed: Seed of the choice.

    Returns:
        Rows of train and of test, each in rising order. A class of one row, and rows without a
        class, are in train.
    """
    import torch

    from effssl.seeding import seeded_generator

    order = torch.randperm(len(labels), generator=seeded_generator(seed, "test split")).tolist()
    of_class: dict[int, list[int]] = {}
    for row in order:
        of_class.setdefault(labels[row], []).append(row)
    test: set[int] = set()
    for label, rows in of_class.items():
        if label >= 0 and len(rows) > 1:
            test.update(rows[: min(len(rows) - 1, max(1, round(test_share * len(rows))))])
    return [row for row in range(len(labels)) if row not in test], sorted(test)


def _resolved(part: str, there: Collection[str]) -> str:
    found = _NAME.match(part)
    if found is None or found[0] in there:  # no name: datasets says what is wrong
        return part
    meaning = SPLITS.get(found[0].lower())
    alike = [name for name in there if meaning and SPLITS.get(name.lower()) == meaning]
    if len(alike) != 1:
        raise MissingSplit(found[0], there)
    return alike[0] + part[found.end() :]

"""Tables of an evaluation and of a later one of the same images, merged: nothing is lost."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")
Table = Mapping[str, Mapping[str, T]]
"""Values by encoder and protocol."""


def merged_tables(earlier: Table[T], later: Table[T]) -> dict[str, dict[str, T]]:
    """Return the values of both tables; those of the later one take the place of equal places."""
    names = dict.fromkeys([*max(earlier, later, key=len), *earlier, *later])
    # baselines that were measured apart stand before the model itself, as in one evaluation
    order = sorted(names, key=lambda name: name == "pretrained")
    return {name: {**earlier.get(name, {}), **later.get(name, {})} for name in order}


def without_protocols(table: Table[T], protocols: Container[str]) -> dict[str, dict[str, T]]:
    """Return a table without some protocols, and without encoders that have no other."""
    found = {
        name: {key: value for key, value in row.items() if key not in protocols}
        for name, row in table.items()
    }
    return {name: row for name, row in found.items() if row}


def joined_tables(
    earlier: Table[list[float]],
    later: Table[list[float]],
    earlier_seeds: Mapping[str, Sequence[int]],
    later_seeds: Mapping[str, Sequence[int]],
) -> dict[str, dict[str, list[float]]]:
    """Merge tables of a number for each seed: other seeds are added, the same ones replaced.

    Args:
        earlier: Percentages by encoder and protocol.
        later: Likewise.
        earlier_seeds: Seeds of each protocol of the first table.
        later_seeds: Seeds of each protocol of the second.
    """
    both = merged_tables(earlier, later)
    for encoder, row in both.items():
        for name in row:
            first, second = (t.get(encoder, {}).get(name) for t in (earlier, later))
            if not first or not second or first == second:
                continue
            seeds = earlier_seeds.get(name, ()), later_seeds.get(name, ())
            # one number of several seeds is the same for each of them
            if len(first) == len(seeds[0]) and len(second) == len(seeds[1]):
                found = dict(zip(seeds[0], first, strict=True))
                row[name] = list((found | dict(zip(seeds[1], second, strict=True))).values())
    return both


def joined_seeds(
    table: Table[list[float]],
    earlier: Mapping[str, Sequence[int]],
    later: Mapping[str, Sequence[int]],
) -> dict[str, list[int]]:
    """Return the seeds of each protocol after `joined_tables`.

    Args:
        table: Percentages of the later evaluation; a protocol without any has the later seeds.
        earlier: Seeds of each protocol of the earlier evaluation.
        later: Likewise.
    """
    measured = {name for row in table.values() for name in row}
    added = {
        name: list(dict.fromkeys([*earlier.get(name, ()), *seeds])) if name in measured else seeds
        for name, seeds in later.items()
    }
    return {**earlier, **added}

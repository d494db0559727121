"""Short notes on the protocols of an evaluation: each once, and seeds where they matter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from effssl.records import EvaluationRecord

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")


def protocol_notes(record: EvaluationRecord) -> list[tuple[str, str]]:
    """Return name and description of protocols; those that differ by numbers only are one.

    The seeds follow where a number of the table depends on them.

    Args:
        record: An evaluation.
    """
    groups: dict[tuple, list[str]] = {}
    for name, sentence in record.protocols.items():
        seeds = _seeds(record, name)
        groups.setdefault((_template(name), _template(sentence), *seeds), []).append(name)
    notes = []
    for (_, _, *seeds), names in groups.items():
        sentence = merged(record.protocols[name] for name in names)
        which = f"; seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" if seeds else ""
        notes.append((merged(names), sentence + which))
    return notes


def named(protocols: Iterable[str]) -> str:
    """Join names of protocols: ``k-NN 1/5 and linear``."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in protocols:
        groups.setdefault(_template(name), []).append(name)
    *first, last = (merged(names) for names in groups.values())
    return f"{', '.join(first)} and {last}" if first else last


def merged(texts: Iterable[str]) -> str:
    """Return texts that differ in numbers only as one, with ``1/5/20`` where they differ."""
    columns = zip(*(_NUMBER.split(text) for text in texts), strict=True)
    return "".join("/".join(dict.fromkeys(column)) for column in columns)


def _template(text: str) -> tuple[str, ...]:
    return tuple(_NUMBER.split(text)[::2])


def _seeds(record: EvaluationRecord, name: str) -> Sequence[int]:
    """Return the seeds of a protocol if an encoder has a number for each of them."""
    seeds = record.seeds.get(name, ())
    counts = {len(row.get(name, ())) for row in record.top1.values()}
    return seeds if len(seeds) in counts else ()

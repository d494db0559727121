"""Hints for names that were mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, names: Iterable[str], most: int = 1) -> str:
    """Return ``"did you mean 'x'? "`` with the names closest to ``name``, or an empty text.

    Args:
        name: What was given.
        names: What is allowed.
        most: Largest number of names in the hint.
    """
    near = difflib.get_close_matches(str(name), list(names), n=most)
    return f"did you mean {', '.join(map(repr, near))}? " if near else ""

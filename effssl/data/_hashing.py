"""Hashing of what cells hold."""

from __future__ import annotations

import numpy as np
import xxhash


def add(hasher: xxhash.xxh3_128 | xxhash.xxh3_64, value: object) -> None:
    """Add bytes, an array, or anything with a repr, together with its kind and length."""
    if isinstance(value, np.ndarray) and value.dtype == object:  # holds arrays of unequal shapes
        value = list(value)
    if isinstance(value, list) and any(isinstance(item, np.ndarray) for item in value):
        hasher.update(f"list {len(value)}\n".encode())
        for item in value:
            add(hasher, item)
        return
    if isinstance(value, np.ndarray):
        kind = f"array {value.dtype.str} {value.shape}"
        value = np.ascontiguousarray(value)
    elif isinstance(value, bytes):
        kind = f"bytes {len(value)}"
    else:
        value = repr(value).encode()
        kind = f"other {len(value)}"
    hasher.update(f"{kind}\n".encode())
    hasher.update(value)

"""Random generators that depend only on the seed of a run and on the position in it."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(seed: int, *position: str | int) -> int:
    """Derive a seed for a purpose and a position, such as ``derived_seed(0, "views", 1200)``."""
    text = ":".join(str(part) for part in (seed, *position))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def seeded_generator(seed: int, *position: str | int) -> torch.Generator:
    """Make a CPU generator for a purpose and a position; equal arguments give equal draws."""
    return torch.Generator().manual_seed(derived_seed(seed, *position))

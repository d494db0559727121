"""Rows of length 1."""

import math

from torch import Tensor

_SHORTEST = 1e-12


def unit_rows(x: Tensor) -> Tensor:
    """Divide rows, shape (..., D), by their length.

    A row of zeros, such as a narrow projector gives of hidden units that are all 0, has no angle:
    it stays 0 and gets no gradient. That of a row divided by a least length overflows float16.
    """
    lengths = x.norm(dim=-1, keepdim=True)
    return x / lengths.masked_fill(lengths < _SHORTEST, math.inf)

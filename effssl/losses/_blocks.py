"""Blocks of rows between element-wise steps.

On a CPU a fresh temporary of the size of the projections costs more than the arithmetic on it; the
losses therefore compute element-wise steps a block of rows at a time, small enough to stay in the
processor's cache. On an accelerator launches are the cost, and blocks only bound the memory.
"""

from collections.abc import Iterable
from typing import cast

from torch import Tensor

BLOCK_ELEMENTS = 2**21
ACCELERATOR_BLOCK_BYTES = 2**28


def elements(z: Tensor) -> int:
    """Return how many elements of the type and device of z a block has."""
    on_cpu = z.device.type == "cpu"
    return BLOCK_ELEMENTS if on_cpu else ACCELERATOR_BLOCK_BYTES // z.element_size()


def row_blocks(z: Tensor) -> tuple[Tensor, ...]:
    """Split z, shape (V, N, D), into blocks of consecutive rows, without a copy."""
    views, _, dim = z.shape
    return z.split(max(1, elements(z) // (views * dim)), dim=1)


def add_up(blocks: Iterable[Tensor]) -> Tensor:
    """Sum the results of one or more blocks."""
    return cast(Tensor, sum(blocks))

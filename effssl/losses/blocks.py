"""Blocks of rows, small enough to stay in a processor's cache between element-wise steps.

On a CPU a fresh temporary of the size of the projections costs more than the arithmetic on it;
the losses therefore make their element-wise temporaries a block of rows at a time.
"""

from torch import Tensor

BLOCK_ELEMENTS = 2**21


def row_blocks(z: Tensor) -> tuple[Tensor, ...]:
    """Split z, shape (V, N, D), into views of consecutive rows."""
    views, _, dim = z.shape
    return z.split(max(1, BLOCK_ELEMENTS // (views * dim)), dim=1)

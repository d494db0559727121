"""Blocks of rows between element-wise steps.

On a CPU a fresh temporary of the size of the projections costs more than the arithmetic on it; the
losses therefore make their element-wise temporaries a block of rows at a time, small enough to
stay in the processor's cache. On an accelerator it is launches that cost, and blocks only keep
temporaries small beside the projections.
"""

from torch import Tensor

BLOCK_ELEMENTS = 2**21
ACCELERATOR_BLOCK_BYTES = 2**28


def row_blocks(z: Tensor) -> tuple[Tensor, ...]:
    """Split z, shape (V, N, D), into views of consecutive rows."""
    views, _, dim = z.shape
    on_cpu = z.device.type == "cpu"
    elements = BLOCK_ELEMENTS if on_cpu else ACCELERATOR_BLOCK_BYTES // z.element_size()
    return z.split(max(1, elements // (views * dim)), dim=1)

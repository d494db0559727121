"""TF32 for the matrix products of a loss, where it costs no accuracy.

A GPU multiplies about seven times as fast in TF32, whose operands have 10 bits of mantissa instead
of 23. Relative errors against float64, largest of bt (pairs and mean), vicreg and spectral in
both forms of the products, V 2 and 4, N 256 and 512, D 64 to 4096, correlated and white
dimensions, simulated on a CPU with rounded operands and sums in float32:

    projections    operands             value    gradient
    float32        float32              3e-7     2e-6
    float32        TF32, to nearest     2e-5     7e-3 (vicreg, at a hinge; else 6e-4)
    float32        TF32, cut off        9e-3     4e-2 (vicreg, at a hinge; else 7e-3)
    bfloat16       float32              1e-4     2e-2 (vicreg; else 6e-3)
    bfloat16       TF32, to nearest     1e-4     2e-2 (vicreg; else 6e-3)
    bfloat16       TF32, cut off        9e-3     5e-2 (vicreg, at a hinge; else 9e-3)

Projections of half precision, as from autocast, are therefore multiplied in TF32. Float32 ones
follow ``torch.set_float32_matmul_precision``, which is float32 by default.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.RLock()  # torch has one switch for all threads


@contextmanager
def tf32_products(wanted: bool, device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices in TF32 inside this context, if wanted and on CUDA."""
    if not wanted or device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    with _lock:
        newer = getattr(matmul, "fp32_precision", None)  # since torch 2.9
        if newer == "tf32" or (newer is None and matmul.allow_tf32):
            yield
            return
        # the older switch sets the newer one too: torch's profiler raises if they disagree
        matmul.allow_tf32 = True
        try:
            yield
        finally:
            matmul.allow_tf32 = False
            if newer is not None:
                matmul.fp32_precision = newer

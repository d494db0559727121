"""W-MSE, which whitens the views of a batch, for two or more views of each image.

Ermolov, Siarohin, Sangineto, Sebe, "Whitening for Self-Supervised Representation Learning",
ICML 2021, https://arxiv.org/abs/2007.06346.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from effssl.device import to_device
from effssl.distributed import all_reduce_, all_reduce_sum, from_first_process, gather_rows
from effssl.losses._pairs import check_global_views, count_pairs
from effssl.losses._projections import check_projections
from effssl.losses._unit_rows import unit_rows
from effssl.losses._whiten import whiten


class _AllRows(torch.autograd.Function):
    """Gather rows; the gradient of this process's own is the sum over processes."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, counts: list[int]) -> Tensor:
        first = dist.get_rank() * max(counts)
        ctx.own = slice(first, first + z.shape[1])
        return gather_rows(z, max(counts))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return all_reduce_(grad.contiguous().clone())[:, ctx.own], None


def _shuffled(rows: Tensor, counts: list[int], generator: torch.Generator | None) -> Tensor:
    """Shuffle the images of all processes, as places in rows of `_AllRows`.

    They are sorted by their sums first, so that the result does not depend on which process holds
    which image.
    """
    longest = max(counts)
    places = [i * longest + row for i, count in enumerate(counts) for row in range(count)]
    found = to_device(torch.tensor(places), rows.device)
    found = found[rows[:, found].sum((0, 2), dtype=torch.float64).argsort()]
    source = generator.device if generator else "cpu"
    order = torch.randperm(len(places), generator=generator, device=source)
    return from_first_process(found[to_device(order, rows.device)])


def _sub_batches(images: int, dim: int, size: int | None) -> int:
    """Return the number of sub-batches, each of more images than dimensions."""
    if size is not None and size < 1:
        raise ValueError(f"size is a number of images, 1 or more, or None for 2 D, got {size}")
    number = max(1, images // (size or 2 * dim))
    if images // number <= dim:
        raise ValueError(
            f"wmse needs more than {dim} images, the width, in a sub-batch, got {images // number} "
            f"of {images}; take a larger batch, fewer sub-batches (size) or a narrower projector"
        )
    return number


def wmse(
    z: Tensor,
    *,
    size: int | None = None,
    eps: float = 1e-6,
    generator: torch.Generator | None = None,
    global_views: int | None = None,
    return_parts: bool = False,
) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
    """Keep whitened views alike in angle.

    The N images are split at random into floor(N / size) sub-batches, at least one, whose sizes
    differ by 1 at most. Each view of a sub-batch is centered and multiplied by the inverse Cholesky
    factor of its covariance, which whitens it. With w_vn the row of view v of image n the loss is

        mean_{n, a < b} (2 - 2 cos(w_an, w_bn))

    without pairs. It is 2 for unrelated views, and for projections all the same.

    Whitening makes up for dimensions of little variance, so nothing keeps features from collapsing
    to a few that it turns into many. Give the projector a wide hidden layer; theirs has 1024.

    This equals the code of Ermolov et al. where size, 2 D there, divides N, but for eps: times the
    mean variance, it is added to the diagonal of each covariance.

    Args:
        z: Projections, shape (V, N, D), of V >= 2 views. With several processes each passes its
            own images, and all get the loss over the N images of all processes, N > D.
        size: Least number of images of a sub-batch, unless there are fewer images; 2 D if None.
        eps: Ridge relative to the mean variance, >= 0.
        generator: Source of the order, of process 0 for all; torch's default one if None.
        global_views: Number of global views, G, which come first in z; all if None. Pairs of two
            others do not count.
        return_parts: Also return the detached "invariance", 1 minus the mean cosine: half the loss.

    Returns:
        The loss, a scalar in float32 (float64 for float64), or the loss and its part.

    Raises:
        TypeError: If z is not a floating-point tensor.
        ValueError: If z is not (V, N, D) with V >= 2, a sub-batch has no more images than D, size
            is below 1, eps is negative, or global_views is not from 1 to V.
    """
    z, counts, _ = check_projections(z)
    with torch.autocast(z.device.type, enabled=False):
        if not eps >= 0:
            raise ValueError(f"eps is a share of the mean variance, 0 or more, got {eps}")
        g = check_global_views(global_views, len(z))
        images, processes = sum(counts), len(counts)
        number = _sub_batches(images, z.shape[-1], size)
        rows = _AllRows.apply(z, counts) if processes > 1 else z
        parts = _shuffled(rows.detach(), counts, generator).tensor_split(number)
        own = parts[dist.get_rank() :: processes] if processes > 1 else parts
        cosines = rows[:, :0].sum()  # on the graph if this process has no sub-batch
        for length in {len(part) for part in own}:
            index = torch.stack([part for part in own if len(part) == length])
            w = unit_rows(whiten(rows[:, index], eps))  # (V, parts, n, D)
            squares, total = w[:g].square().sum(), w[:g].sum(0)
            cosines = cosines + ((total * (total + 2 * w[g:].sum(0))).sum() - squares) / 2
        invariance = 1 - all_reduce_sum(cosines) / (images * count_pairs(len(z), g))
    if not return_parts:
        return 2 * invariance
    return 2 * invariance, {"invariance": invariance.detach()}

"""Sums and gathers over the processes of a run; everything here is local without a process group.

All statistics of a batch are made from sums and counts, never from means, so that processes may
hold different numbers of images.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """Number of processes of the default process group; 1 when there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_(x: Tensor) -> Tensor:
    """Sum a contiguous ``x`` over all processes, in place and without a gradient."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return sum_(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        return sum_(grad.clone(memory_format=torch.contiguous_format))


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum ``x`` over all processes, in the forward and in the backward pass.

    Where all W processes compute the same loss from such sums, the gradient that reaches a
    process's own images is W times that of one process holding the whole batch; the mean over
    processes that DDP takes of parameter gradients then is the gradient of the whole batch.
    """
    return _AllReduceSum.apply(x) if world_size() > 1 else x


def count_rows(rows: int, device: torch.device) -> list[int]:
    """The number of rows that each process holds, in the order of ranks.

    With more than one process on an accelerator this waits for the device, once a call.
    """
    if world_size() == 1:
        return [rows]
    counts = torch.zeros(world_size(), dtype=torch.int64, device=device)
    counts[dist.get_rank()] = rows
    return sum_(counts).tolist()


def gather_rows(z: Tensor, longest: int) -> Tensor:
    """The rows of all W processes, without a gradient.

    Args:
        z: Shape (V, n, D); n may differ between processes.
        longest: The largest n of all processes.

    Returns:
        Shape (V, W * longest, D): each process's rows, filled up with zeros to ``longest``.
    """
    views, rows, dim = z.shape
    gathered = z.new_empty(views, world_size() * longest, dim)
    for view, out in zip(z, gathered, strict=True):
        padded = torch.nn.functional.pad(view, (0, 0, 0, longest - rows))
        dist.all_gather(list(out.split(longest)), padded.contiguous())
    return gathered


def gather_objects(value: object) -> list:
    """The value of every process, in the order of ranks."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values

"""Sums and gathers over the processes of a run; without a process group nothing is sent.

Statistics of a batch are computed from sums and counts, never from means, so that processes may
hold different numbers of images.
"""

import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

_PATIENCE = timedelta(hours=12)  # one process may write results for long while the others wait


def join(*, cpu: bool = False) -> torch.device:
    """Return the device to compute on; under a launcher such as torchrun, join its processes.

    Args:
        cpu: Compute on the CPU even where there is a GPU.
    """
    cuda = torch.cuda.is_available() and not cpu
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        from accelerate import PartialState  # slow to import

        # gloo sums values on the CPU without waiting for a GPU
        backend = {"backend": "cuda:nccl,cpu:gloo"} if cuda else {}
        return PartialState(cpu=not cuda, timeout=_PATIENCE, **backend).device
    return torch.device("cuda" if cuda else "cpu")


def own_buffers() -> dict[str, bool]:
    """Return the option of DistributedDataParallel that leaves buffers alone.

    All processes start with the same buffers and update running statistics from the same sums, so
    that a broadcast before every forward pass would change nothing.
    """
    known = inspect.signature(DistributedDataParallel).parameters
    new, old = "forward_sync_buffers", "broadcast_buffers"  # torch 2.14 warns of the old name
    return {new if new in known else old: False}


def world_size() -> int:
    """Number of processes of the default process group; 1 when there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce_(x: Tensor) -> Tensor:
    """Sum a contiguous ``x`` over all processes, in place and without a gradient."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_reduce_(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return all_reduce_(grad.clone(memory_format=torch.contiguous_format))


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum ``x`` over all processes, in the forward and in the backward pass.

    If all W processes compute the same loss from such sums, the gradient that reaches a process's
    own images is W times that of one process with the whole batch. DDP then averages the gradients
    of the parameters over processes, which gives the gradient of the whole batch.
    """
    return _AllReduceSum.apply(x) if world_size() > 1 else x


def from_first_process(x: Tensor) -> Tensor:
    """Return the first process's ``x``, of one shape on all, without a gradient."""
    if world_size() > 1:
        x = x.contiguous()
        dist.broadcast(x, 0)
    return x


def gather(x: Tensor) -> Tensor:
    """Gather ``x``, of one shape on all W processes, without a gradient: (W, ...)."""
    if world_size() == 1:
        return x.unsqueeze(0)
    gathered = x.new_empty(world_size() * x.numel())  # gloo and NCCL both take flat tensors
    renamed = hasattr(dist, "all_gather_single")  # newer torch warns about the old name
    into = dist.all_gather_single if renamed else dist.all_gather_into_tensor
    into(gathered, x.contiguous().view(-1))
    return gathered.view(world_size(), *x.shape)


def all_reduce_max(value: int) -> int:
    """Return the largest value of all processes, by the CPU, without waiting for a GPU."""
    if world_size() == 1:
        return value
    largest = torch.tensor([value])
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


_known_rows: ContextVar[list[int] | None] = ContextVar("known_rows", default=None)


def gather_counts(counts: Sequence[int]) -> list[list[int]]:
    """Gather counts of every process, by the CPU, without waiting for a GPU.

    Args:
        counts: Counts of this process, the same number of them on every process.

    Returns:
        A list for each count, with its values on all processes in the order of ranks.
    """
    mine = torch.tensor(counts, dtype=torch.int64)
    return gather(mine).T.tolist()


@contextmanager
def rows_known(counts: Sequence[int]) -> Iterator[None]:
    """Make `count_rows` return known counts, without communication.

    A loss inside this context never waits for the device.

    Args:
        counts: Rows on each process, in the order of ranks, as `gather_counts` returns them.

    Raises:
        ValueError: If counts does not have one number a process, or `count_rows` is called inside
            with another number of rows than this process's count.
    """
    if len(counts) != world_size():
        raise ValueError(f"counts has one number a process, {world_size()}, got {list(counts)}")
    token = _known_rows.set(list(counts))
    try:
        yield
    finally:
        _known_rows.reset(token)


def count_rows(rows: int, device: torch.device) -> list[int]:
    """Return the number of rows of each process, in the order of ranks.

    With several processes on an accelerator each call waits for the device once, unless the counts
    are known (`rows_known`).
    """
    known = _known_rows.get()
    if known is not None:
        rank = dist.get_rank() if world_size() > 1 else 0
        if known[rank] != rows:
            raise ValueError(
                f"process {rank} has {rows} rows, but {known[rank]} were announced by rows_known: "
                "leave it, or enter it with the rows of this batch"
            )
        return list(known)
    if world_size() == 1:
        return [rows]
    counts = torch.zeros(world_size(), dtype=torch.int64, device=device)
    counts[dist.get_rank()] = rows
    return all_reduce_(counts).tolist()


def gather_rows(z: Tensor, longest: int) -> Tensor:
    """Gather the rows of all W processes, without a gradient, in one communication.

    Args:
        z: Shape (V, n, D); n may differ between processes.
        longest: The largest n of all processes.

    Returns:
        Shape (V, W * longest, D): each process's rows, padded with zeros to ``longest``.
    """
    views, rows, dim = z.shape
    if rows < longest:
        z = torch.nn.functional.pad(z, (0, 0, 0, longest - rows))
    return gather(z).transpose(0, 1).reshape(views, world_size() * longest, dim)


def gather_uneven(x: Tensor) -> Tensor:
    """Gather the rows of all processes, which may hold different numbers, without a gradient.

    Args:
        x: Rows of this process, (n, D).

    Returns:
        The rows in the order of ranks, (N, D).
    """
    return gather_views(x.unsqueeze(0), count_rows(len(x), x.device))[0]


def gather_views(z: Tensor, counts: Sequence[int]) -> Tensor:
    """Gather the rows of all processes, without padding and without a gradient.

    Args:
        z: Rows of this process, (V, n, D); n may differ between processes.
        counts: Rows of each process, in the order of ranks.

    Returns:
        The rows in the order of ranks, (V, N, D).
    """
    if len(counts) == 1:
        return z
    longest = max(counts)
    parts = gather_rows(z, longest).split(longest, dim=1)
    return torch.cat([part[:, :count] for part, count in zip(parts, counts, strict=True)], dim=1)


def gather_objects(value: object) -> list:
    """Gather a value that can be pickled from every process, in the order of ranks."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def is_lost_connection(error: BaseException) -> bool:
    """Return whether an error means that another process was lost during a sum or gather."""
    # gloo raises plain RuntimeErrors whose text names its source files
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )

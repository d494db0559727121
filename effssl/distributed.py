"""Sums and gathers over the processes of a run; everything here is local without a process group.

All statistics of a batch are made from sums and counts, never from means, so that processes may
hold different numbers of images.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

_PATIENCE = timedelta(hours=12)  # while one process writes what all have computed


def join(*, cpu: bool = False) -> torch.device:
    """The device to compute on; under a launcher such as torchrun this joins its other processes.

    Args:
        cpu: Compute on the CPU even where there is a GPU.
    """
    cuda = torch.cuda.is_available() and not cpu
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        from accelerate import PartialState  # whose import takes longer than a loss

        # sums on the CPU tell what does not wait for a GPU
        backend = {"backend": "cuda:nccl,cpu:gloo"} if cuda else {}
        return PartialState(cpu=not cuda, timeout=_PATIENCE, **backend).device
    return torch.device("cuda" if cuda else "cpu")


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
    def forward(ctx, x: Tensor) -> Tensor:
        return all_reduce_(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        return all_reduce_(grad.clone(memory_format=torch.contiguous_format))


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum ``x`` over all processes, in the forward and in the backward pass.

    Where all W processes compute the same loss from such sums, the gradient that reaches a
    process's own images is W times that of one process holding the whole batch; the mean over
    processes that DDP takes of parameter gradients then is the gradient of the whole batch.
    """
    return _AllReduceSum.apply(x) if world_size() > 1 else x


def gather(x: Tensor) -> Tensor:
    """``x`` of all W processes, which has the same shape on each, without a gradient: (W, ...)."""
    if world_size() == 1:
        return x.unsqueeze(0)
    gathered = x.new_empty(world_size() * x.numel())  # flat, as gloo and NCCL both take it
    renamed = hasattr(dist, "all_gather_single")  # by a later torch, which warns of the old name
    into = dist.all_gather_single if renamed else dist.all_gather_into_tensor
    into(gathered, x.contiguous().view(-1))
    return gathered.view(world_size(), *x.shape)


def all_reduce_max(value: int) -> int:
    """The largest value of all processes, by way of the CPU: a GPU need not have finished."""
    if world_size() == 1:
        return value
    largest = torch.tensor([value])
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


_known_rows: ContextVar[list[int] | None] = ContextVar("known_rows", default=None)


def gather_counts(counts: Sequence[int]) -> list[list[int]]:
    """Counts of every process, by way of the CPU: a GPU need not have finished.

    Args:
        counts: Counts of this process; as many as the others have.

    Returns:
        For each count a list of those of all processes, in the order of ranks.
    """
    mine = torch.tensor(counts, dtype=torch.int64)
    return gather(mine).T.tolist()


@contextmanager
def rows_known(counts: Sequence[int]) -> Iterator[None]:
    """Let `count_rows` return counts that are known, without communication.

    A loss that runs inside then never waits for the device.

    Args:
        counts: Rows on each process, in the order of ranks, as `gather_counts` returns them.

    Raises:
        ValueError: If it is not one count a process, or if inside `count_rows` is asked for
            another number of rows than this process's.
    """
    if len(counts) != world_size():
        raise ValueError(f"counts has one number a process, {world_size()}, got {list(counts)}")
    token = _known_rows.set(list(counts))
    try:
        yield
    finally:
        _known_rows.reset(token)


def count_rows(rows: int, device: torch.device) -> list[int]:
    """The number of rows that each process holds, in the order of ranks.

    With more than one process on an accelerator this waits for the device, once a call, unless
    the counts are known (`rows_known`).
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
    """The rows of all W processes, without a gradient, by one gather.

    Args:
        z: Shape (V, n, D); n may differ between processes.
        longest: The largest n of all processes.

    Returns:
        Shape (V, W * longest, D): each process's rows, filled up with zeros to ``longest``.
    """
    views, rows, dim = z.shape
    if rows < longest:
        z = torch.nn.functional.pad(z, (0, 0, 0, longest - rows))
    return gather(z).transpose(0, 1).reshape(views, world_size() * longest, dim)


def gather_objects(value: object) -> list:
    """The value of every process, in the order of ranks."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error is that of a sum or gather which another process did not take part in."""
    # gloo raises plain RuntimeErrors that name its source files
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )

"""Sums and gathers over the processes of a run; everything here is local without a process group.

All statistics of a batch are made from sums and counts, never from means, so that processes may
hold different numbers of images.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


def gather(x: Tensor) -> Tensor:
    """``x`` of all W processes, which has the same shape on each, without a gradient: (W, ...)."""
    if world_size() == 1:
        return x.unsqueeze(0)
    gathered = x.new_empty(world_size(), *x.shape)
    dist.all_gather(list(gathered), x.contiguous())
    return gathered


def max_(value: int) -> int:
    """The largest value of all processes, by way of the CPU: a GPU need not have finished."""
    if world_size() == 1:
        return value
    largest = torch.tensor([value])
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


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


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error is that of a sum or gather which another process did not take part in."""
    # gloo raises plain RuntimeErrors that name its source files
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


@contextmanager
def heartbeat(every: float = 1.0) -> Iterator[None]:
    """Count up in the store, from a thread: a process that waits for another one is alive too."""
    if world_size() == 1:
        yield
        return
    store = dist.distributed_c10d._get_default_store().clone()
    key = f"effssl/alive/{dist.get_rank()}"
    stop = threading.Event()

    def beat() -> None:
        try:
            while not stop.wait(every):
                store.add(key, 1)
        except RuntimeError:  # the store is gone, and with it the run
            pass

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        # a thread that is in the store when Python ends aborts the process
        stop.set()
        thread.join(timeout=10)


def silent_processes(wait: float = 5.0) -> list[int]:
    """Ranks whose heart does not beat, after a lost connection.

    Args:
        wait: Seconds to listen.
    """
    store = dist.distributed_c10d._get_default_store()
    keys = [f"effssl/alive/{rank}" for rank in range(world_size())]
    try:
        before = [store.add(key, 0) for key in keys]
        time.sleep(wait)
        silent = [r for r, key in enumerate(keys) if store.add(key, 0) == before[r]]
        if dist.get_rank() == 0:
            time.sleep(2)  # the others still listen
    except RuntimeError:
        silent = [0]
    return silent

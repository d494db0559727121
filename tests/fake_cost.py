"""Work asked of a GPU: kernels with their bytes and operations, copies from the host, waits."""

import functools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import effssl

_PACKAGE = str(Path(effssl.__file__).parent)
_NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach"}
_NO_KERNEL |= {"_unsafe_view", "_reshape_alias", "record_stream", "lift_fresh"}
_PICKS = {"index", "gather", "index_select", "embedding"}  # read as much as they return
_PUTS = {"index_put_", "index_copy_", "index_add_", "scatter_", "scatter_add_"}
_OVERWRITES = {"copy_", "fill_", "zero_", "uniform_", "normal_", "random_", "bernoulli_"}
_OVERWRITES |= {"_foreach_copy_", "_foreach_zero_"}


class Launch(NamedTuple):
    """A kernel: its name, the calling line, the bytes it moves, its operations and their type."""

    name: str
    place: str
    bytes: int
    flops: int
    dtype: torch.dtype | None


class Copy(NamedTuple):
    """A copy from the host, and whether the host waits for it, as it does for unpinned memory."""

    place: str
    bytes: int
    blocking: bool


@dataclass
class Cost:
    """Work asked of the GPU, in order.

    Attributes:
        launches: Kernels.
        copies: Copies from the host.
        waits: Reads of values on the device, as "what file:line"; each waits for all work.
    """

    launches: list[Launch] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)

    @property
    def kernels(self) -> int:
        return len(self.launches)

    @property
    def bytes(self) -> int:
        return sum(launch.bytes for launch in self.launches)

    @property
    def flops(self) -> int:
        return sum(launch.flops for launch in self.launches)

    @property
    def blocking(self) -> list[str]:
        return [copy.place for copy in self.copies if copy.blocking]


def caller() -> str:
    """Return file:line of the innermost frame in the package, or else in a test."""
    frame, other = sys._getframe(1), "?"
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE):
            return f"{file[len(_PACKAGE) + 1 :]}:{frame.f_lineno}"
        if other == "?" and Path(file).name.startswith(("test_", "gpu_budget")):
            other = f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return other


def is_kernel(func) -> bool:
    """Tell whether an operation does work on the device rather than only return a view."""
    return not _signature(func)[0] and func.overloadpacket.__name__ not in _NO_KERNEL


def weigh(func, args, kwargs, out) -> tuple[Launch, list[FakeTensor], list[FakeTensor]]:
    """Return an operation as a kernel, and the tensors that it reads and writes."""
    name, place = func.overloadpacket.__name__, caller()
    written = _signature(func)[1]
    both = [*args, *kwargs.values()]
    names = [*range(len(args)), *kwargs]
    fakes, results = _of((args, kwargs)), _of(out)
    changed = [x for n, a in zip(names, both, strict=True) if n in written for x in _of(a)]
    overwritten = name in _OVERWRITES or "out" in kwargs
    read = [x for x in fakes if not (overwritten and any(x is y for y in changed))]
    reads = {key(x): size_of(x) for x in read}
    writes = {key(x): size_of(x) for x in (*results, *changed)}
    if name in _PICKS:
        reads[key(args[0])] = min(size_of(args[0]), sum(writes.values()))
    if name in _PUTS:
        touched = max(size_of(x) for x in fakes[1:])
        reads[key(args[0])] = writes[key(args[0])] = min(size_of(args[0]), touched)
    count = flop_registry.get(func.overloadpacket)
    flops = 0 if count is None else count(*args, **kwargs, out_val=out)
    moved = sum(reads.values()) + sum(writes.values())
    launch = Launch(name, place, moved, flops, (results or fakes)[0].dtype)
    return launch, read, [*results, *changed]


def _of(argument) -> list[FakeTensor]:
    return [x for x in tree_leaves(argument) if isinstance(x, FakeTensor)]


def key(x: FakeTensor) -> tuple:
    return x.untyped_storage()._cdata, x.storage_offset(), x.shape, x.dtype


def size_of(x: FakeTensor) -> int:
    """Return the bytes of memory; an expanded tensor has less than its elements would take."""
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())


@functools.cache
def _signature(func) -> tuple[bool, frozenset]:
    """Tell whether an operation only returns a view, and which arguments it changes."""
    schema = func._schema
    view = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
    written = set()
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written |= {argument.name} if argument.kwarg_only else {place, argument.name}
    return view, frozenset(written)

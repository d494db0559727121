"""CUDA tensors that hold no data, so that code for a GPU runs on a machine without one.

`FakeCuda` is a dispatch mode. Tensors on "cuda" have a shape, a dtype and a device but no values;
tensors on the CPU stay real, so that control flow, draws and data loading run as they are. It
raises where a CPU tensor meets a CUDA one, and it writes down what a GPU would have to do:

    with FakeCuda() as gpu, pretend(gpu):
        with gpu.measured() as cost:
            views = multi_view(torch.empty(16, 3, 80, 80, dtype=torch.uint8, device="cuda"))
    print(cost.kernels, cost.bytes, cost.copies, cost.waits)

`fake_machine.pretend` makes torch and Accelerate believe in the GPU, for whole programs.

What it cannot see: values, so that no branch on a value is taken but one; NCCL; what a kernel
does inside, such as an operation without a deterministic implementation; the host overwriting
pinned memory that is being copied; work of other threads, where a mode does not reach. One
operation counts as one kernel, though some launch several (the backward pass of a convolution, a
fused optimizer), and each of its operands as read or written once, though batch norm reads twice.
"""

import functools
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import torch._dynamo
from fake_operations import SHAPES, apply
from fake_streams import FakeStream, Held
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import effssl

aten = torch.ops.aten
_PACKAGE = str(Path(effssl.__file__).parent)
_DISPATCH = {__file__, torch._compile.__file__, torch._dynamo.eval_frame.__file__}
_NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach"}
_NO_KERNEL |= {"_unsafe_view", "_reshape_alias", "record_stream", "lift_fresh"}
_CONSTANT = ("detach", "new_", "zeros_like", "ones_like", "empty_like", "full_like")  # no gradient
_PICKS = {"index", "gather", "index_select", "embedding"}  # read as much as they return
_PUTS = {"index_put_", "index_copy_", "index_add_", "scatter_", "scatter_add_"}
_OVERWRITES = {"copy_", "fill_", "zero_", "uniform_", "normal_", "random_", "bernoulli_"}
_OVERWRITES |= {"_foreach_copy_", "_foreach_zero_"}


class Launch(NamedTuple):
    """A kernel: its name, who asked for it, what it moves and computes, and in which type."""

    name: str
    place: str
    bytes: int
    flops: int
    dtype: torch.dtype | None


class Copy(NamedTuple):
    """A copy from the host, and whether the host waits for it: always of memory not pinned."""

    place: str
    bytes: int
    blocking: bool


@dataclass
class Cost:
    """What was asked of the GPU, in order.

    Attributes:
        launches: Kernels.
        copies: Copies from the host.
        waits: Reads of values on the device, "what file:line", each of which waits for all work.
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
    """file:line of the innermost frame that lies in the package; else of the innermost test."""
    frame, other = sys._getframe(1), "?"
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE):
            return f"{file[len(_PACKAGE) + 1 :]}:{frame.f_lineno}"
        if other == "?" and Path(file).name.startswith(("test_", "gpu_budget")):
            other = f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return other


class _Functions(TorchFunctionMode):
    """What has to be known above autograd, where C++ takes the device for another.

    A tensor that goes to where it is stays itself; and the nodes that accumulate gradients are made
    before autocast asks for the device of the tensors they belong to.
    """

    def __init__(self, gpu: "FakeCuda") -> None:
        super().__init__()
        self.gpu, self._made = gpu, {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.gpu.autocast:
            for x in tree_leaves((args, kwargs)):
                if isinstance(x, FakeTensor) and x.requires_grad and x.is_leaf:
                    self._make(x)
        if func is torch.Tensor.to and isinstance(args[0], FakeTensor):
            args, kwargs = _without_device(*args, **kwargs)
        return func(*args, **kwargs)

    def _make(self, x: FakeTensor) -> None:
        if id(x) not in self._made:
            self.gpu.autocast = False
            with torch.enable_grad():
                self._made[id(x)] = x.view_as(x).grad_fn.next_functions[0][0]
            self.gpu.autocast = True


class FakeCuda(TorchDispatchMode):
    """See the module.

    Args:
        float64: Whether the device has float64; MPS has not, and raises.
        value: What every read of a floating-point number gives; of an integer it is 1, of a truth
            True, but False of what `any` has found.

    Attributes:
        cost: All that was asked of the device so far.
        live, peak: Bytes of tensors alive on the device, now and at most.
    """

    def __init__(self, *, float64: bool = True, value: float = 1.0) -> None:
        super().__init__()
        self.device = torch.device("cuda", 0)
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.float64, self.value = float64, value
        self.cost = Cost()
        self.live = self.peak = 0
        self.stream = self.default_stream = FakeStream(self)
        self.host_saw: dict[FakeStream, int] = {}  # how far each stream was when the host waited
        self.hazards: list[str] = []
        self._held: dict[int, Held] = {}
        self._new: list[weakref.ref] = []  # what autograd has not seen yet
        self._pinned: dict[int, weakref.finalize] = {}
        self.autocast, self._set_torch_autocast = False, torch.set_autocast_enabled
        self._functions = _Functions(self)
        self._patches = [
            mock.patch.object(FakeTensor, "tolist", lambda x: self._read_list(x)),
            mock.patch.object(FakeTensor, "data_ptr", _address, create=True),
            mock.patch.object(torch, "set_autocast_enabled", self._set_autocast),
            mock.patch.object(torch.autograd.Function, "apply", classmethod(apply)),
            mock.patch.object(FakeTensor, "is_cuda", True, create=True),
            mock.patch.object(FakeTensorMode, "avoid_device_init", True, create=True),
        ]

    def __enter__(self):
        for patch in self._patches:
            patch.start()
        self._functions.__enter__()
        self.fake.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.fake.__exit__(*error)
        self._functions.__exit__(*error)
        for patch in self._patches:
            patch.stop()
        if self.hazards and error[0] is None:
            raise RuntimeError("; ".join(self.hazards))

    @contextmanager
    def measured(self) -> Iterator[Cost]:
        """The cost of what happens inside, which is there at the end."""
        since, cost = self.mark(), Cost()
        try:
            yield cost
        finally:
            vars(cost).update(vars(self.since(since)))

    def mark(self) -> tuple[int, int, int]:
        """A point in time for `since`."""
        return len(self.cost.launches), len(self.cost.copies), len(self.cost.waits)

    def since(self, mark: tuple[int, int, int]) -> Cost:
        """The cost of all since a point in time."""
        a, b, c = mark
        return Cost(self.cost.launches[a:], self.cost.copies[b:], self.cost.waits[c:])

    @contextmanager
    def one_kernel(self, name: str, *inputs) -> Iterator[list]:
        """Count what happens inside, such as a compiled region, as its inputs and outputs.

        The outputs are put into the list that this gives.
        """
        mark, outputs = len(self.cost.launches), []
        yield outputs
        flops = sum(launch.flops for launch in self.cost.launches[mark:])
        moved = {_key(x): _size(x) for x in tree_leaves((inputs, outputs)) if _is_fake(x)}
        dtype = next((x.dtype for x in tree_leaves(outputs) if _is_fake(x)), None)
        launch = Launch(name, caller(), sum(moved.values()), flops, dtype)
        self.cost.launches[mark:] = [launch]

    def waits_for(self, what: str, stream: FakeStream | None = None) -> None:
        """Note that the host waits for a stream, the current one if None."""
        self.cost.waits.append(f"{what} {caller()}")
        (stream or self.stream).is_seen_by(self.host_saw)

    def pin(self, x: torch.Tensor) -> torch.Tensor:
        """Take note that a CPU tensor lies in pinned memory."""
        storage = x.untyped_storage()
        key = storage._cdata
        self._pinned[key] = weakref.finalize(storage, self._pinned.pop, key, None)
        return x

    def is_pinned(self, x: torch.Tensor) -> bool:
        return x.untyped_storage()._cdata in self._pinned

    def record_stream(self, x: torch.Tensor, stream: FakeStream) -> None:
        self._held[x.untyped_storage()._cdata].recorded.add(stream)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return self.device if self._asks_autocast(args[0]) else torch.device("meta")
        to = kwargs.get("device")
        to = None if to is None else torch.device(to)
        if to is not None and to.type == "meta":
            to = kwargs["device"] = self.device
        leaves = tree_leaves((args, kwargs))
        fakes = [x for x in leaves if isinstance(x, FakeTensor)]
        if not fakes and (to is None or to.type != self.device.type):
            with unset_fake_temporarily():
                if not kwargs.pop("pin_memory", False):
                    return func(*args, **kwargs)  # the CPU's part stays real
                return self.pin(func(*args, **kwargs))
        _check_generator(leaves)
        moved = self._across(func, args, kwargs, fakes, to)
        if moved is not NotImplemented:
            return moved
        if func in (aten.index.Tensor, aten.index_put_.default):
            args = self._index(args)
        if "pin_memory" in kwargs:
            kwargs["pin_memory"] = False
        out = SHAPES.get(func, func)(*args, **kwargs)  # by the FakeTensorMode below
        self._note(func, args, kwargs, out, fakes)
        self._new = []
        constant = func.overloadpacket.__name__.startswith(_CONSTANT)
        if torch.is_grad_enabled() and any(x.requires_grad for x in fakes) and not constant:
            self._new = [weakref.ref(x) for x in tree_leaves(out) if isinstance(x, FakeTensor)]
        return out

    def _asks_autocast(self, x: FakeTensor) -> bool:
        """Whether C++ asks for the device of a tensor to know if it should be cast.

        Autograd asks too, once, of what an operation has just given, and would look for a real
        device. Python itself sees cuda:0.
        """
        if not self.autocast:
            return False
        older = [new for new in self._new if new() is not x]
        if len(older) < len(self._new):
            self._new = older
            return False
        frame = sys._getframe(1)
        while frame.f_code.co_filename in _DISPATCH:
            frame = frame.f_back
        return frame.f_code is not apply.__code__  # in its forward another frame is on top

    def _set_autocast(self, device: str, enabled: bool) -> None:
        self.autocast = enabled if device == "cuda" else self.autocast
        self._set_torch_autocast(device, enabled)

    def _across(self, func, args, kwargs, fakes, to):
        """What of an operation reads the device or crosses its border; else NotImplemented."""
        if func is aten._local_scalar_dense.default:
            self.waits_for("item")
            if self._held_of(args[0]).writer_name == "any":
                return False  # nothing is wrong
            return self._value(args[0].dtype)
        if func is aten.equal.default:
            self.waits_for("equal")
            return True
        if func is aten.nonzero.default:
            self.waits_for("size of a selection")
            return args[0].new_empty((args[0].numel(), args[0].ndim), dtype=torch.int64)
        if func is aten._unique2.default:
            self.waits_for("size of a selection")
            alike = args[0].new_empty(args[0].numel(), dtype=torch.int64)
            return args[0].flatten().clone(), alike, alike.clone()
        if func is aten.masked_select.default:
            self.waits_for("size of a selection")
            return args[0].new_empty(args[1].numel())
        if func is aten._to_copy.default and to is not None:
            if fakes and to.type == "cpu":
                dtype = kwargs.get("dtype") or args[0].dtype
                with unset_fake_temporarily():
                    out = self._fill(torch.empty(args[0].shape, dtype=dtype), args[0])
                # the memory is pinned where the copy does not block
                if kwargs.get("non_blocking"):
                    return self.pin(out)
                self.waits_for("to cpu")
                return out
            if not fakes:
                self._from_host(args[0], kwargs.get("dtype"), kwargs.get("non_blocking"))
        if func is aten.copy_.default:
            target, source = args[:2]
            blocks = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            if not isinstance(target, FakeTensor):
                if blocks or not self.is_pinned(target):
                    self.waits_for("to cpu")
                with unset_fake_temporarily():
                    return self._fill(target, source)
            if not isinstance(source, FakeTensor) and source.ndim + target.ndim:
                self._from_host(source, target.dtype, not blocks)
        return NotImplemented

    def _fill(self, target, source: FakeTensor):
        """A copy to the host, of the values where they came from it and nothing changed them."""
        known = self._held_of(source).values
        if known is not None and known.shape == target.shape:
            return target.copy_(known)
        return target.fill_(self._value(target.dtype))

    def _from_host(self, source, dtype, non_blocking) -> None:
        # torch copies what it has to convert or rearrange to memory that is not pinned
        alike = dtype in (None, source.dtype) and any(
            source.is_contiguous(memory_format=m)
            for m in (torch.contiguous_format, torch.channels_last)
            if source.ndim == 4 or m is torch.contiguous_format
        )
        if size := source.numel() * source.element_size():
            free = non_blocking and alike and self.is_pinned(source)
            self.cost.copies.append(Copy(caller(), size, not free))

    def _index(self, args):
        """Indices on the device: a mask's size is a wait, an index on the host a copy."""
        indices = []
        for index in args[1]:
            if index is None:
                indices.append(None)
                continue
            if not isinstance(args[0], FakeTensor) and isinstance(index, FakeTensor):
                raise RuntimeError("a CPU tensor is indexed by one on a GPU")
            if isinstance(args[0], FakeTensor) and not isinstance(index, FakeTensor):
                self._from_host(index, None, False)
            if index.dtype == torch.bool:
                self.waits_for("size of a selection")
                places = torch.empty(index.numel(), dtype=torch.int64, device=self.device)
                indices += [places] * index.ndim
            else:
                indices.append(index)
        return (args[0], indices, *args[2:])

    def _read_list(self, x: FakeTensor):
        self.waits_for("tolist")

        def nested(shape):
            return [nested(shape[1:]) for _ in range(shape[0])] if shape else self._value(x.dtype)

        return nested(x.shape)

    def _value(self, dtype: torch.dtype):
        if not dtype.is_floating_point:
            return dtype == torch.bool or 1
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_name != "_maybe_opt_step":
            frame = frame.f_back
        return self.value if frame is None else 0.0  # the scaler asks for infinite gradients

    def _note(self, func, args, kwargs, out, fakes) -> None:
        """Write down a kernel, who wrote what memory, and whether its streams are in order."""
        results = [x for x in tree_leaves(out) if isinstance(x, FakeTensor)]
        if not self.float64 and any(x.dtype == torch.float64 for x in results):
            raise TypeError(f"{func}: Cannot convert a MPS Tensor to float64 dtype")
        for x in results:
            self._hold(x)
        name = func.overloadpacket.__name__
        is_view, written = _signature(func)
        if is_view or name in _NO_KERNEL:
            return
        both = [*args, *kwargs.values()]
        names = [*range(len(args)), *kwargs]
        changed = [x for n, a in zip(names, both, strict=True) if n in written for x in _of(a)]
        overwritten = name in _OVERWRITES or "out" in kwargs
        read = [x for x in fakes if not (overwritten and any(x is y for y in changed))]
        reads = {_key(x): _size(x) for x in read}
        writes = {_key(x): _size(x) for x in (*results, *changed)}
        if name in _PICKS:
            reads[_key(args[0])] = min(_size(args[0]), sum(writes.values()))
        if name in _PUTS:
            touched = max(_size(x) for x in fakes[1:])
            reads[_key(args[0])] = writes[_key(args[0])] = min(_size(args[0]), touched)
        flops = flop_registry.get(func.overloadpacket)
        flops = 0 if flops is None else flops(*args, **kwargs, out_val=out)
        moved = sum(reads.values()) + sum(writes.values())
        place, dtype = caller(), (results or fakes)[0].dtype
        self.cost.launches.append(Launch(name, place, moved, flops, dtype))
        self.stream.now += 1
        for x in read:
            self._held_of(x).is_read(self, f"{name} {place}")
        for x in (*results, *changed):
            held, values = self._held_of(x), None
            if func.namespace == "c10d":  # of fake processes, which change nothing
                values = held.values
            if name in ("_to_copy", "copy_") and len(fakes) < 2 and not x.is_floating_point():
                source = args[name == "copy_"]
                if isinstance(source, torch.Tensor) and not isinstance(source, FakeTensor):
                    values = source
            held.is_written(self, f"{name} {place}", values)
            held.writer_name = name

    def _held_of(self, x: FakeTensor) -> Held:
        key = x.untyped_storage()._cdata
        if key not in self._held:  # made before, or by C++
            self._hold(x)
        return self._held[key]

    def _hold(self, x: FakeTensor) -> None:
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self._held or x.device.type != self.device.type:
            return
        size = storage.nbytes()
        self._held[key] = Held(self.stream)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.live -= size
        self.hazards += self._held.pop(key).dangers(self)


def _without_device(x, *args, copy=False, memory_format=None, **kwargs):
    """Arguments of `Tensor.to`, which is not told of the device if the tensor is there."""
    if args and isinstance(args[0], torch.Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
    kwargs = {"dtype": dtype, "non_blocking": non_blocking, "copy": copy}
    kwargs["memory_format"] = memory_format or torch.preserve_format
    if device is not None and torch.device(device.type, device.index or 0) != x.device:
        kwargs["device"] = device
    return (x,), kwargs


def _address(x: FakeTensor) -> int:
    """In place of `Tensor.data_ptr`: the same for the same memory."""
    return x.untyped_storage()._cdata + x.storage_offset() * x.element_size()


def _is_fake(x) -> bool:
    return isinstance(x, FakeTensor)


def _of(argument) -> list[FakeTensor]:
    return [x for x in tree_leaves(argument) if isinstance(x, FakeTensor)]


def _key(x: FakeTensor) -> tuple:
    return x.untyped_storage()._cdata, x.storage_offset(), x.shape, x.dtype


def _size(x: FakeTensor) -> int:
    """Bytes of memory, which an expanded tensor has less of than elements."""
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())


@functools.cache
def _signature(func) -> tuple[bool, frozenset]:
    """Whether an operation only returns a view, and the places and names of what it changes."""
    schema = func._schema
    view = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
    written = set()
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written |= {argument.name} if argument.kwarg_only else {place, argument.name}
    return view, frozenset(written)


def _check_generator(leaves: list) -> None:
    for leaf in leaves:
        if isinstance(leaf, torch.Generator) and leaf.device.type == "cpu":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")

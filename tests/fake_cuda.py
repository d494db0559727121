"""CUDA tensors that hold no data, so that code for a GPU runs on a machine without one.

`FakeCuda` is a dispatch mode. Tensors on "cuda" have a shape, a dtype and a device but no values;
tensors on the CPU stay real, so that control flow, draws and data loading run as they are. It
raises where a CPU tensor meets a CUDA one, and it records the work that a GPU would have to do:

    with FakeCuda() as gpu, pretend(gpu):
        with gpu.measured() as cost:
            views = multi_view(torch.empty(16, 3, 80, 80, dtype=torch.uint8, device="cuda"))
    print(cost.kernels, cost.bytes, cost.copies, cost.waits)

`fake_machine.pretend` shows the GPU to torch and Accelerate, for whole programs.

It cannot see values, so that only one branch on a value is taken; NCCL; the inside of a kernel,
such as a missing deterministic implementation; the host overwriting pinned memory during a copy;
and work of other threads, which a mode does not reach.

One operation counts as one kernel, though some launch several (the backward pass of a convolution,
a fused optimizer). Each operand counts as read or written once, though batch norm reads twice.
Attention counts as its unfused form in float32. Reads give made-up values, see `FakeCuda`.
"""

import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch._dynamo
from fake_cost import Copy, Cost, Launch, caller, is_kernel, key, size_of, weigh
from fake_operations import SHAPES, Functions, address, apply
from fake_streams import FakeStream, Held
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
_DISPATCH = {__file__, torch._compile.__file__, torch._dynamo.eval_frame.__file__}
_CONSTANT = ("detach", "new_", "zeros_like", "ones_like", "empty_like", "full_like")  # no gradient


class FakeCuda(TorchDispatchMode):
    """Dispatch mode of CUDA tensors without data; see the module.

    Args:
        float64: Whether the device has float64; without it, as on MPS, using it raises.
        value: Result of every read of a floating-point number. An integer reads as 1, a boolean as
            True, except the result of `any`, which reads as False.

    Attributes:
        cost: All work asked of the device so far.
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
        self._functions = Functions(self)
        self._patches = [
            mock.patch.object(FakeTensor, "tolist", lambda x: self._read_list(x)),
            mock.patch.object(FakeTensor, "data_ptr", address, create=True),
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
        """Give the cost of the block, complete when it ends."""
        since, cost = self.mark(), Cost()
        try:
            yield cost
        finally:
            vars(cost).update(vars(self.since(since)))

    def mark(self) -> tuple[int, int, int]:
        """Return a point in time for `since`."""
        return len(self.cost.launches), len(self.cost.copies), len(self.cost.waits)

    def since(self, mark: tuple[int, int, int]) -> Cost:
        """Return the cost of all work since a point in time."""
        a, b, c = mark
        return Cost(self.cost.launches[a:], self.cost.copies[b:], self.cost.waits[c:])

    @contextmanager
    def one_kernel(self, name: str, *inputs) -> Iterator[list]:
        """Count a block, such as a compiled region, as one kernel of its inputs and outputs.

        The caller puts the outputs into the list that this gives.
        """
        mark, outputs = len(self.cost.launches), []
        yield outputs
        flops = sum(launch.flops for launch in self.cost.launches[mark:])
        moved = {key(x): size_of(x) for x in tree_leaves((inputs, outputs)) if _is_fake(x)}
        dtype = next((x.dtype for x in tree_leaves(outputs) if _is_fake(x)), None)
        launch = Launch(name, caller(), sum(moved.values()), flops, dtype)
        self.cost.launches[mark:] = [launch]

    def waits_for(self, what: str, stream: FakeStream | None = None) -> None:
        """Note that the host waits for a stream, the current one if None."""
        self.cost.waits.append(f"{what} {caller()}")
        (stream or self.stream).is_seen_by(self.host_saw)

    def pin(self, x: torch.Tensor) -> torch.Tensor:
        """Record that a CPU tensor lies in pinned memory."""
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
        """Tell whether C++ asks for the device of a tensor to decide on autocast.

        Autograd asks too, once for each new result of an operation, and would look for a real
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
        """Run an operation that reads the device or copies across; NotImplemented for others."""
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
        """Copy to the host, with true values where they came from it and nothing changed them."""
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
        """Return indices on the device; a mask costs a wait for its size, a CPU index a copy."""
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
        """Record a kernel and who wrote what memory, and check the order of streams."""
        results = [x for x in tree_leaves(out) if isinstance(x, FakeTensor)]
        if not self.float64 and any(x.dtype == torch.float64 for x in results):
            raise TypeError(f"{func}: Cannot convert a MPS Tensor to float64 dtype")
        for x in results:
            self._hold(x)
        if not is_kernel(func):
            return
        launch, read, written = weigh(func, args, kwargs, out)
        self.cost.launches.append(launch)
        name, what = launch.name, f"{launch.name} {launch.place}"
        self.stream.now += 1
        for x in read:
            self._held_of(x).is_read(self, what)
        for x in written:
            held, values = self._held_of(x), None
            if func.namespace == "c10d":  # of fake processes, which change nothing
                values = held.values
            if name in ("_to_copy", "copy_") and len(fakes) < 2 and not x.is_floating_point():
                source = args[name == "copy_"]
                if isinstance(source, torch.Tensor) and not isinstance(source, FakeTensor):
                    values = source
            held.is_written(self, what, values)
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


def _is_fake(x) -> bool:
    return isinstance(x, FakeTensor)


def _check_generator(leaves: list) -> None:
    for leaf in leaves:
        if isinstance(leaf, torch.Generator) and leaf.device.type == "cpu":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")

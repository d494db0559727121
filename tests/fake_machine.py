"""A simulated machine with GPUs, for what torch and Accelerate ask before they use one.

with FakeCuda() as gpu, pretend(gpu):
    effssl.pretrain(config)
with FakeCuda() as gpu, pretend(gpu), one_of(8, rank=3):
    effssl.pretrain(config)  # as process 3 of 8, each on its own machine
"""

import contextlib
import functools
import importlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import accelerate
import torch
import torch._subclasses.fake_tensor as fake_tensor
import torch.distributed as dist
from accelerate.utils import DistributedDataParallelKwargs
from fake_cuda import FakeCuda
from fake_streams import FakeEvent, FakeStream
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._pytree import tree_map

from effssl.hub import _weights as weights

_ANSWERS = {
    "is_available": True,
    "is_initialized": True,
    "is_bf16_supported": True,
    "is_current_stream_capturing": False,
    "device_count": 1,
    "current_device": 0,
    "get_device_name": "NVIDIA H100",
    "get_device_capability": (9, 0),
    "mem_get_info": (80 << 30, 80 << 30),
    "_lazy_call": None,
    "_lazy_init": None,
    "empty_cache": None,
    "reset_peak_memory_stats": None,
    "set_device": None,
}


@contextmanager
def pretend(gpu: FakeCuda) -> Iterator[None]:
    """Show torch and Accelerate one GPU; enter it inside the `FakeCuda`."""
    patch = mock.patch.object
    with ExitStack() as stack:
        for name, answer in (_ANSWERS | _streams(gpu)).items():
            answer = answer if callable(answer) else functools.partial(_always, answer)
            stack.enter_context(patch(torch.cuda, name, answer))
        for module in ("torch.utils._foreach_utils", "torch.optim.optimizer"):
            owner = importlib.import_module(module)
            known = [*owner._foreach_supported_types, FakeTensor]
            stack.enter_context(patch(owner, "_foreach_supported_types", known))
        for owner, name, function in (
            (fake_tensor, "init_gpu_context", lambda device: None),
            (accelerate.PartialState, "set_device", lambda state: _set_device(state, gpu)),
            (accelerate.Accelerator, "prepare", _prepare(gpu)),
            (torch._C, "_group_tensors_by_device_and_dtype", _grouped),
            (torch.nn.Module, "_apply", _move(torch.nn.Module._apply)),
            (torch, "save", _with_zeros(torch.save)),
            (weights, "save_file", _with_zeros(weights.save_file)),
            (torch, "compile", functools.partial(_compile, gpu)),
            (torch.Tensor, "pin_memory", functools.partialmethod(_pin_memory, gpu)),
            (torch.Tensor, "is_pinned", lambda x, device=None: gpu.is_pinned(x)),
            (torch.Tensor, "record_stream", lambda x, stream: gpu.record_stream(x, stream)),
        ):
            stack.enter_context(patch(owner, name, function, create=True))
        yield


@contextmanager
def one_of(processes: int, rank: int) -> Iterator[None]:
    """Make this process one of several, each on its own machine.

    Sums and gathers return this process's own values. Enter it inside `pretend`.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    def broadcast(objects, *arguments, **more) -> None:
        return None

    def gather(gathered, value, *arguments, **more) -> None:
        gathered[:] = [value] * len(gathered)

    environment = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": 1}
    ddp = torch.nn.parallel.distributed
    with (
        mock.patch.dict(os.environ, {k: str(v) for k, v in environment.items()}),
        mock.patch.object(dist, "broadcast_object_list", broadcast),
        mock.patch.object(dist, "all_gather_object", gather),
        # they compare and copy values between processes
        mock.patch.object(ddp, "_verify_param_shape_across_processes", lambda *a, **k: True),
        mock.patch.object(ddp, "_sync_module_states", lambda *a, **k: None),
        mock.patch.object(DistributedDataParallelKwargs, "register_comm_hook", _reduce_in_python),
    ):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=processes)
        try:
            yield
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def _reduce_in_python(handler, model: torch.nn.Module) -> None:
    """Sum gradients where FakeCuda sees it; DDP itself does so in C++."""

    def reduce(state, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        dist.all_reduce(bucket.buffer())
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    model.register_comm_hook(None, reduce)


def _always(answer, *arguments, **more):
    return answer


def _streams(gpu: FakeCuda) -> dict:
    @contextmanager
    def stream(new: FakeStream | None):
        before = gpu.stream
        gpu.stream = before if new is None else new
        try:
            yield
        finally:
            gpu.stream = before

    def synchronize(device=None) -> None:
        gpu.waits_for("synchronize")

    return {
        "Stream": functools.partial(FakeStream, gpu),
        "Event": functools.partial(FakeEvent, gpu),
        "stream": stream,
        "set_stream": lambda new: setattr(gpu, "stream", new),
        "current_stream": lambda device=None: gpu.stream,
        "default_stream": lambda device=None: gpu.default_stream,
        "synchronize": synchronize,
        "max_memory_allocated": lambda device=None: gpu.peak,
        "memory_allocated": lambda device=None: gpu.live,
        "device": lambda device: contextlib.nullcontext(),
    }


def _set_device(state: accelerate.PartialState, gpu: FakeCuda) -> None:
    state.device = torch.device("cpu") if state._cpu else gpu.device


def _prepare(gpu: FakeCuda):
    """Wrap Accelerate's prepare for a `Module.to` that makes new parameters, not moves data."""
    prepare = accelerate.Accelerator.prepare

    def prepare_moved(self, model, optimizer):
        before = dict(model.named_parameters())
        model = model.to(self.device)
        after = dict(model.named_parameters())
        new = {before[name]: after[name] for name in before}
        for group in optimizer.param_groups:
            group["params"] = [new[p] for p in group["params"]]
        return prepare(self, model, optimizer)

    return prepare_moved


def _grouped(lists: list[list], with_indices: bool = False) -> dict:
    """Group tensors like torch's own function, which sees the wrong device without values."""
    groups: dict = {}
    for i, x in enumerate(lists[0]):
        columns, indices = groups.setdefault((x.device, x.dtype), ([[] for _ in lists], []))
        for column, values in zip(columns, lists, strict=True):
            column += [values[i]] if values else []  # such as without amsgrad
        indices += [i] if with_indices else []
    return groups


def _move(move):
    """Wrap Module._apply to replace parameters without values; torch would swap their contents."""

    def replace(module: torch.nn.Module, function, recurse: bool = True) -> torch.nn.Module:
        if not any(isinstance(p, FakeTensor) for p in module.parameters()):
            return move(module, function, recurse)
        for child in module.children():
            child._apply(function)
        for name, old in module._parameters.items():
            with torch.no_grad():
                new = old if old is None else function(old)
            if new is not old and not _alike(new, old):  # a copy on the same device is new
                module._parameters[name] = torch.nn.Parameter(new, old.requires_grad)
        for name, old in module._buffers.items():
            module._buffers[name] = old if old is None else function(old)
        return module

    return replace


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a.device, a.dtype, a.stride()) == (b.device, b.dtype, b.stride())


def _with_zeros(save):
    """Wrap a function that saves tensors, to save zeros for those without values."""

    def real(x):
        return torch.zeros(x.shape, dtype=x.dtype) if isinstance(x, FakeTensor) else x

    def save_zeros(state, file, **more) -> None:
        with unset_fake_temporarily():
            save(tree_map(real, state), file, **more)

    return save_zeros


def _compile(gpu: FakeCuda, function=None, **options):
    """Stand in for torch.compile, as if a whole function became one kernel."""
    if function is None:
        return functools.partial(_compile, gpu, **options)

    @functools.wraps(function)
    def compiled(*args, **kwargs):
        with gpu.one_kernel(function.__name__, args, kwargs) as outputs:
            outputs.append(function(*args, **kwargs))
        return outputs[0]

    return compiled


def _pin_memory(x: torch.Tensor, gpu: FakeCuda, device=None) -> torch.Tensor:
    return x if gpu.is_pinned(x) else gpu.pin(x.clone())

"""Operations that torch lacks for tensors on "cuda" without data.

These are shapes of the operations of SyncBatchNorm, which exist for CUDA only, and hooks by which
`FakeCuda` tells autocast's questions for a tensor's device from those of autograd.
"""

import inspect

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


def _like_channels(x: torch.Tensor) -> torch.Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape[1], dtype=dtype)


def _stats(x, *others):
    return _like_channels(x), _like_channels(x)


def _same(x, *others):
    return torch.empty_like(x)


def _backward_reduce(grad, x, mean, invstd, weight, with_x, with_weight, with_bias):
    return (*_stats(x), *(_like_channels(x) if w else None for w in (with_weight, with_bias)))


SHAPES = {
    aten.batch_norm_stats.default: _stats,
    aten.batch_norm_update_stats.default: _stats,
    aten.batch_norm_gather_stats_with_counts.default: _stats,
    aten.batch_norm_elemt.default: _same,
    aten.batch_norm_backward_reduce.default: _backward_reduce,
    aten.batch_norm_backward_elemt.default: _same,
}

_APPLY = inspect.getattr_static(torch.autograd.Function, "apply")


def apply(cls, *args, **kwargs):
    """Stand in for `torch.autograd.Function.apply`."""
    return _APPLY.__get__(None, cls)(*args, **kwargs)


class Functions(TorchFunctionMode):
    """Corrections above autograd, where C++ sees another device than Python.

    A tensor moved to its own device stays itself, and the nodes that accumulate gradients are made
    before autocast asks for the devices of their tensors.
    """

    def __init__(self, gpu) -> None:
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


def _without_device(x, *args, copy=False, memory_format=None, **kwargs):
    """Return the arguments of `Tensor.to` without the device if the tensor is there already."""
    if args and isinstance(args[0], torch.Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
    kwargs = {"dtype": dtype, "non_blocking": non_blocking, "copy": copy}
    kwargs["memory_format"] = memory_format or torch.preserve_format
    if device is not None and torch.device(device.type, device.index or 0) != x.device:
        kwargs["device"] = device
    return (x,), kwargs


def address(x: FakeTensor) -> int:
    """Stand in for `Tensor.data_ptr`: the same number for the same memory."""
    return x.untyped_storage()._cdata + x.storage_offset() * x.element_size()

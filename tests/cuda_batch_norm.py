"""What CUDA's kernels of batch norm compute, for devices that have none of them.

torch has `batch_norm_elemt` and its kin for CUDA only: neither for the CPU nor, for tensors without
data, shapes. `install` gives it both, so that code that is written for them runs in tests.
"""

import functools

import torch
from torch import Tensor

aten = torch.ops.aten


def _places(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *[1] * (x.ndim - 2))


def _sum(x: Tensor) -> Tensor:
    return x.sum([0, *range(2, x.ndim)])


def _exact(x: Tensor) -> Tensor:
    return x.double() if x.dtype == torch.float64 else x.float()


def _statistics(x: Tensor, running_mean, running_var, momentum: float):
    assert running_mean is None and running_var is None and x.numel()
    exact = _exact(x)
    mean = _sum(exact) / (x.numel() // x.shape[1])
    var = _sum((exact - _places(mean, x)).square()) / (x.numel() // x.shape[1])
    return mean, var


def _normalize(x: Tensor, weight, bias, mean: Tensor, invstd: Tensor, eps: float) -> Tensor:
    y = (_exact(x) - _places(mean, x)) * _places(weight * invstd, x) + _places(bias, x)
    return torch.empty_like(x).copy_(y)


def _backward_reduce(grad, x, mean, invstd, weight, input_g, weight_g, bias_g):
    assert input_g and weight_g and bias_g and grad.stride() == x.stride()
    sum_dy = _sum(_exact(grad))
    sum_dy_xmu = _sum(_exact(grad) * (_exact(x) - _places(mean, x)))
    return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy.clone()


def _backward(grad, x, mean, invstd, weight, sum_dy, sum_dy_xmu, count) -> Tensor:
    assert count.dtype == torch.int32 and count.ndim == 1 and grad.stride() == x.stride()
    total = count.sum().to(mean.dtype)
    slope = invstd.square() * sum_dy_xmu / total
    inner = _exact(grad) - _places(sum_dy / total, x)
    inner = inner - (_exact(x) - _places(mean, x)) * _places(slope, x)
    return torch.empty_like(x).copy_(inner * _places(weight * invstd, x))


def _shapes_of_statistics(x: Tensor, running_mean, running_var, momentum: float):
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape[1], dtype=dtype), x.new_empty(x.shape[1], dtype=dtype)


def _shapes_of_sums(grad, x, mean, invstd, weight, input_g, weight_g, bias_g):
    return tuple(torch.empty_like(t) for t in (mean, mean, weight, weight))


_CPU = {
    "batch_norm_elemt": _normalize,
    "batch_norm_backward_reduce": _backward_reduce,
    "batch_norm_backward_elemt": _backward,
}
_SHAPES = {
    "batch_norm_update_stats": _shapes_of_statistics,
    "batch_norm_elemt": lambda x, *_: torch.empty_like(x),
    "batch_norm_backward_reduce": _shapes_of_sums,
    "batch_norm_backward_elemt": lambda grad, x, *_: torch.empty_like(x),
}


@functools.cache
def install() -> list[torch.library.Library]:
    """Give torch the kernels that it lacks, once a process."""
    library = torch.library.Library("aten", "IMPL")
    for device, kernels in (("CPU", _CPU), ("Meta", _SHAPES)):
        for name, kernel in kernels.items():
            if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", device):
                library.impl(name, kernel, device)
    return [library]

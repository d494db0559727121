"""CPU versions of the batch norm kernels that torch has for CUDA only.

`install` registers them, so that code written for `batch_norm_elemt` and its kin gives values in
tests. Their shapes, for CUDA tensors without data, are in `fake_operations.SHAPES`.
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


_KERNELS = {
    "batch_norm_elemt": _normalize,
    "batch_norm_backward_reduce": _backward_reduce,
    "batch_norm_backward_elemt": _backward,
}


@functools.cache
def install() -> list[torch.library.Library]:
    """Register the kernels that torch lacks, once per process."""
    library = torch.library.Library("aten", "IMPL")
    for name, kernel in _KERNELS.items():
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "CPU"):
            library.impl(name, kernel, "CPU")
    return [library]

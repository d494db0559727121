"""What torch lacks for tensors on "cuda" that hold no data.

Shapes of operations that it has for CUDA only, those of SyncBatchNorm; and a frame that tells when
autograd, and not autocast, asks for the device of what a Function has given.
"""

import inspect

import torch

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
    """In place of `torch.autograd.Function.apply`."""
    return _APPLY.__get__(None, cls)(*args, **kwargs)

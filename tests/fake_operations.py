"""Shapes of operations that torch has for CUDA only and knows no shapes of: those of SyncBatchNorm."""

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
    aten.batch_norm_gather_stats_with_counts.default: _stats,
    aten.batch_norm_elemt.default: _same,
    aten.batch_norm_backward_reduce.default: _backward_reduce,
    aten.batch_norm_backward_elemt.default: _same,
}

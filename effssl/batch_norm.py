"""Batch norm whose statistics are those of the global batch, and of one step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from effssl.distributed import all_reduce_, gather

logger = logging.getLogger(__name__)


class _Normalize(torch.autograd.Function):
    """Batch norm by statistics of all processes; its gradient is that of the sum of their losses.

    The gradients of weight and bias are this process's share, which DDP averages. All but x are of
    the dtype of the statistics.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, total, eps: float) -> Tensor:
        inverse_std = (var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, var, inverse_std, total)
        ctx.eps = eps
        if not x.numel():  # of which torch's own ends the process
            return x.clone()
        if _has_kernels(x):  # the same, without its two launches for the inverse
            return torch.batch_norm_elemt(x, weight, bias, mean, inverse_std, eps)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, mean, var, inverse_std, total = ctx.saved_tensors
        if not x.numel():
            none = torch.zeros_like(weight)
            all_reduce_(torch.stack([none, none]))  # which the other processes wait for
            return grad, none, none, None, None, None, None
        grad = grad.contiguous(memory_format=_memory_format(x))
        if _has_kernels(x):
            grads = _backward_on_cuda(grad, x, weight, mean, inverse_std, total)
        else:
            grads = _backward(grad, x, weight, mean, var, inverse_std, total, ctx.eps)
        return *grads, None, None, None, None


def _backward(grad, x, weight, mean, var, inverse_std, total, eps):
    # with the statistics as constants: what torch does in eval mode
    grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
        *(grad, x, weight, mean, var, None, None, False, eps, [True, True, True])
    )
    # and through them: - scale (mean of grad + normalized x * mean of grad * normalized x)
    grad_mean, slope = all_reduce_(torch.stack([grad_bias, grad_weight])) / total
    scale = weight * inverse_std
    slope = slope * scale * inverse_std
    shift = slope * mean - scale * grad_mean
    grad_x.add_(_over_places(shift, x)).sub_(x * _over_places(slope, x))
    return grad_x, grad_weight, grad_bias


def _backward_on_cuda(grad, x, weight, mean, inverse_std, total):
    """What `_backward` returns, in two passes over x that add up in float32."""
    *sums, grad_weight, grad_bias = torch.batch_norm_backward_reduce(
        *(grad, x, mean, inverse_std, weight, True, True, True)
    )
    sums = all_reduce_(torch.stack(sums))
    grad_x = torch.batch_norm_backward_elemt(
        *(grad, x, mean, inverse_std, weight, sums[0], sums[1], total.int().view(1))
    )
    return grad_x, grad_weight, grad_bias


class _GlobalBatchNorm(_BatchNorm):
    """Batch norm by statistics of all processes; the host never waits for the device.

    torch's SyncBatchNorm waits three times and takes no empty process in half precision; nor does
    it run on a CPU. On CUDA a layer takes 25 launches forward and 5 backward, the gather and the
    sum among them, of which 2 each pass over x; a compiled model fuses the small ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.track_running_stats:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        if _has_kernels(x):
            x = x.contiguous(memory_format=_memory_format(x))  # as its kernels want it
        with torch.no_grad():
            channels = x.shape[1]
            own = _statistics(x)
            means, variances, counts = gather(own).split([channels, channels, 1], dim=1)
            images = counts.sum()
            total = images.clamp(min=1)
            mean = (counts * means).sum(0) / total
            var = (counts * (variances + (means - mean).square())).sum(0) / total
            if self.track_running_stats and self.training:
                # without images on any process nothing moves, which one that has some need not ask
                self._update(mean, var, total, 1.0 if x.numel() else images.clamp(max=1))
        weight = torch.ones_like(mean) if self.weight is None else self.weight.to(mean.dtype)
        bias = torch.zeros_like(mean) if self.bias is None else self.bias.to(mean.dtype)
        return _Normalize.apply(x, weight, bias, mean, var, total, self.eps)

    def _update(self, mean: Tensor, var: Tensor, total: Tensor, seen: float | Tensor) -> None:
        """Move the running statistics if ``seen`` is 1; it may be 0."""
        self.num_batches_tracked.add_(seen > 0)
        momentum = self.momentum
        if momentum is None:
            momentum = self.num_batches_tracked.clamp(min=1).to(mean.dtype).reciprocal()
        momentum = momentum * seen
        unbiased = var * (total / (total - 1).clamp_(min=1))
        for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
            weight = momentum.to(running.dtype) if isinstance(momentum, Tensor) else momentum
            running.lerp_(value.to(running.dtype), weight)


def _statistics(x: Tensor) -> Tensor:
    """Mean and variance of every channel and the number of values of one, (2 C + 1,).

    They are float32, or float64 for float64, whatever this process has.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    channels = x.shape[1]
    count = torch.full((1,), x.numel() // channels, dtype=dtype, device=x.device)
    if not x.numel():  # every image of this process was broken
        return torch.cat([count.new_zeros(2 * channels), count])
    if _has_kernels(x):  # adds up in float32 without a copy of x in float32
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
    else:
        places = [0, *range(2, x.ndim)]
        var, mean = torch.var_mean(x.to(dtype), places, correction=0)
    return torch.cat([mean, var, count])


class _GlobalBatchNormAct(_GlobalBatchNorm):
    """timm's batch norm with an activation behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def make_global(model: nn.Module) -> nn.Module:
    """Turn every batch norm into one whose statistics are those of all processes.

    With as many processes as one likes the model then computes what one process computes on the
    whole batch. Names of parameters and buffers stay.

    Args:
        model: Is changed; its batch norms may be timm's, with an activation.
    """
    others = {
        type(module).__name__
        for module in model.modules()
        if "running_var" in module._buffers and not isinstance(module, _BatchNorm)
    }
    if others:
        logger.warning(
            "%s keeps statistics of each process's own images: what the run computes depends on "
            "the number of processes",
            ", ".join(sorted(others)),
        )
    for module in model.modules():
        if isinstance(module, BatchNormAct2d):
            module.__class__ = _GlobalBatchNormAct
        elif isinstance(module, _BatchNorm):
            module.__class__ = _GlobalBatchNorm
    return model


class ChunkStatistics:
    """Updates running statistics once for a batch that passes through the model in chunks.

    The running statistics then move toward the mean of the chunks' by one momentum, as if the
    batch had come whole: each chunk starts from those of before, and the results are averaged. No
    momentum changes, on which a compiled model depends.

    Args:
        model: Its batch norms are followed; in train mode.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [
            module
            for module in model.modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
        ]
        self._batches = [norm.num_batches_tracked for norm in norms]
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for buffer in (b for norm in norms for b in (norm.running_mean, norm.running_var)):
            by_dtype.setdefault(buffer.dtype, []).append(buffer)
        self._groups = list(by_dtype.values())

    @contextmanager
    def one_update(self) -> Iterator[ChunkStatistics]:
        """Enter before the first pass of a chunk; leave after the last."""
        self._counting = False
        if not self._batches:
            yield self
            return
        self._batches_before = _copies(self._batches)
        self._before = [_copies(group) for group in self._groups]
        self._moved: list[list[Tensor]] = []
        self._chunks = torch.zeros_like(self._batches[0])
        try:
            yield self
        finally:
            self._count()
            self._finish()

    def weigh(self, chunk: int | None) -> None:
        """Let the next pass count as number ``chunk``, from 0, of a mean; None: not at all."""
        if not self._batches:
            return
        self._count()
        self._counting = chunk is not None
        if self._counting:
            torch._foreach_copy_(self._batches, self._batches_before)
            for group, before in zip(self._groups, self._before, strict=True):
                torch._foreach_copy_(group, before)

    def _count(self) -> None:
        """Add what the last pass moved; one without images on any process moved nothing."""
        if not self._counting:
            return
        self._counting = False
        counted = torch.stack(self._batches) > torch.stack(self._batches_before)
        self._chunks += counted.any()
        moved = [
            list(torch._foreach_sub(group, before))
            for group, before in zip(self._groups, self._before, strict=True)
        ]
        for sums, values in zip(self._moved, moved, strict=False):  # there are none at first
            torch._foreach_add_(sums, values)
        self._moved = self._moved or moved

    def _finish(self) -> None:
        torch._foreach_copy_(self._batches, self._batches_before)
        torch._foreach_add_(self._batches, 1)
        chunks = self._chunks.clamp(min=1)
        for group, before in zip(self._groups, self._before, strict=True):
            torch._foreach_copy_(group, before)
        for group, moved in zip(self._groups, self._moved, strict=False):
            torch._foreach_div_(moved, chunks.to(group[0].dtype))
            torch._foreach_add_(group, moved)


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    copies = [torch.empty_like(tensor) for tensor in tensors]
    torch._foreach_copy_(copies, tensors)
    return copies


def _has_kernels(x: Tensor) -> bool:
    """Whether to use the kernels of torch's SyncBatchNorm, which add up in float32.

    A compiler makes its own of the plain operations, and knows no shapes for these.
    """
    return x.device.type == "cuda" and not torch.compiler.is_compiling()


def _over_places(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.dtype).view(-1, *[1] * (x.ndim - 2))


def _memory_format(x: Tensor) -> torch.memory_format:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    is_last = last is not None and x.is_contiguous(memory_format=last)
    return last if is_last else torch.contiguous_format

"""Batch norm with the statistics of the global batch, over all processes."""

from __future__ import annotations

import logging
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from effssl.distributed import all_reduce_, gather

logger = logging.getLogger(__name__)


class _Normalize(torch.autograd.Function):
    """Normalize by statistics of all processes; the gradient is that of the sum of their losses.

    The gradients of weight and bias are this process's share, which DDP averages. All tensors but x
    have the dtype of the statistics.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        total: Tensor,
        eps: float,
    ) -> Tensor:
        inverse_std = (var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, var, inverse_std, total)
        ctx.eps = eps
        if not x.numel():  # torch's kernel aborts on empty input
            return x.clone()
        if _has_kernels(x):  # two launches fewer: the inverse is known
            return torch.batch_norm_elemt(x, weight, bias, mean, inverse_std, eps)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, inverse_std, total = ctx.saved_tensors
        if not x.numel():
            none = torch.zeros_like(weight)
            all_reduce_(torch.stack([none, none]))  # the other processes wait for this sum
            return grad, none, none, None, None, None, None
        grad = grad.contiguous(memory_format=_memory_format(x))
        if _has_kernels(x):
            grads = _backward_on_cuda(grad, x, weight, mean, inverse_std, total)
        else:
            grads = _backward(grad, x, weight, mean, var, inverse_std, total, ctx.eps)
        return *grads, None, None, None, None


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    var: Tensor,
    inverse_std: Tensor,
    total: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    # statistics as constants, as torch has it in eval mode
    grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
        grad, x, weight, mean, var, None, None, False, eps, [True, True, True]
    )
    # through the statistics: - scale (mean of grad + normalized x * mean of grad * normalized x)
    grad_mean, slope = all_reduce_(torch.stack([grad_bias, grad_weight])) / total
    scale = weight * inverse_std
    slope = slope * scale * inverse_std
    shift = slope * mean - scale * grad_mean
    grad_x.add_(_over_places(shift, x)).sub_(x * _over_places(slope, x))
    return grad_x, grad_weight, grad_bias


def _backward_on_cuda(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse_std: Tensor, total: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what `_backward` does, in two passes over x that sum in float32."""
    sum_grad, sum_grad_x, grad_weight, grad_bias = torch.batch_norm_backward_reduce(
        grad, x, mean, inverse_std, weight, True, True, True
    )
    sums = all_reduce_(torch.stack([sum_grad, sum_grad_x]))
    grad_x = torch.batch_norm_backward_elemt(
        grad, x, mean, inverse_std, weight, sums[0], sums[1], total.int().view(1)
    )
    return grad_x, grad_weight, grad_bias


class _GlobalBatchNorm(_BatchNorm):
    """Batch norm with statistics of all processes; the host never waits for the device.

    torch's SyncBatchNorm waits three times a layer, fails on a process without images in half
    precision, and does not run on a CPU. On CUDA a layer takes 25 launches forward and 5 backward,
    including gather and sum. Of these 2 each pass over x, and a compiled model fuses the small
    ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.track_running_stats:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        if _has_kernels(x):
            x = x.contiguous(memory_format=_memory_format(x))  # as the kernels need it
        with torch.no_grad():
            channels = x.shape[1]
            own = _statistics(x)
            means, variances, counts = gather(own).split([channels, channels, 1], dim=1)
            images = counts.sum()
            total = images.clamp(min=1)
            mean = (counts * means).sum(0) / total
            var = (counts * (variances + (means - mean).square())).sum(0) / total
            if self.track_running_stats and self.training:
                # without images on any process nothing moves; a process with images knows
                self._update(mean, var, total, 1.0 if x.numel() else images.clamp(max=1))
        weight = torch.ones_like(mean) if self.weight is None else self.weight.to(mean.dtype)
        bias = torch.zeros_like(mean) if self.bias is None else self.bias.to(mean.dtype)
        return _Normalize.apply(x, weight, bias, mean, var, total, self.eps)

    def _update(self, mean: Tensor, var: Tensor, total: Tensor, seen: float | Tensor) -> None:
        """Move the running statistics if ``seen`` is 1, not if it is 0."""
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
    """Return mean and variance of every channel and the number of values of one, (2 C + 1,).

    The dtype is float32, or float64 for float64.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    channels = x.shape[1]
    count = torch.full((1,), x.numel() // channels, dtype=dtype, device=x.device)
    if not x.numel():  # every image of this process was broken
        return torch.cat([count.new_zeros(2 * channels), count])
    if _has_kernels(x):  # sums in float32 without a copy of x in float32
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
    else:
        places = [0, *range(2, x.ndim)]
        var, mean = torch.var_mean(x.to(dtype), places, correction=0)
    return torch.cat([mean, var, count])


class _GlobalBatchNormAct(_GlobalBatchNorm):
    """timm's batch norm with an activation after it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def make_global(model: nn.Module) -> nn.Module:
    """Make every batch norm of a model use the statistics of all processes.

    On any number of processes the model then computes what one process computes on the whole batch.
    Names of parameters and buffers stay.

    Args:
        model: Model that is changed in place; it may have timm's batch norms with an activation.

    Returns:
        The model.
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


def _has_kernels(x: Tensor) -> bool:
    """Return whether to use the kernels of torch's SyncBatchNorm, which sum in float32.

    torch.compile cannot infer their shapes; it fuses the plain operations instead.
    """
    return x.device.type == "cuda" and not torch.compiler.is_compiling()


def _over_places(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.dtype).view(-1, *[1] * (x.ndim - 2))


def _memory_format(x: Tensor) -> torch.memory_format:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    if last is not None and x.is_contiguous(memory_format=last):
        return last
    return torch.contiguous_format

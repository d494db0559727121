"""Batch norm whose statistics are those of the global batch, and of one step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from effssl.distributed import gather, sum_

logger = logging.getLogger(__name__)


class _Normalize(torch.autograd.Function):
    """Batch norm by statistics of all processes; its gradient is that of the sum of their losses.

    The gradients of weight and bias are this process's share, which DDP averages.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, count: float, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var)
        ctx.count, ctx.eps = count, eps
        if not x.numel():  # of which torch's own ends the process
            return x.clone()
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, mean, var = ctx.saved_tensors
        if not x.numel():
            none = torch.zeros_like(weight)
            sum_(torch.stack([none, none]))  # which the other processes wait for
            return grad, none, none, None, None, None, None
        # with the statistics as constants: what torch does in eval mode
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad.contiguous(memory_format=_memory_format(x)),
            *(x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]),
        )
        # and through them: - scale (mean of grad + normalized x * mean of grad * normalized x)
        grad_mean, slope = sum_(torch.stack([grad_bias, grad_weight])) / ctx.count
        inverse_std = (var + ctx.eps).rsqrt()
        scale = weight * inverse_std
        slope = slope * scale * inverse_std
        shift = slope * mean - scale * grad_mean
        grad_x.add_(_over_places(shift, x)).sub_(x * _over_places(slope, x))
        return grad_x, grad_weight, grad_bias, None, None, None, None


class _GlobalBatchNorm(_BatchNorm):
    """What torch's SyncBatchNorm is on a GPU, for the CPU, where torch and its DDP refuse it."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.track_running_stats:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        channels = x.shape[1]
        with torch.no_grad():
            exact = x if x.dtype == torch.float64 else x.float()
            places = [0, *range(2, x.ndim)]
            if x.numel():
                var, mean = torch.var_mean(exact, places, correction=0)
            else:  # every image of this process was broken
                var = mean = exact.new_zeros(channels)
            count = mean.new_tensor([x.numel() / channels])
            means, variances, counts = gather(torch.cat([mean, var, count])).split(
                [channels, channels, 1], dim=1
            )
            total = counts.sum().item()
            if not total:
                return x
            mean = (counts * means).sum(0) / total
            var = (counts * (variances + (means - mean).square())).sum(0) / total
            if self.track_running_stats and self.training:
                self.num_batches_tracked.add_(1)
                momentum = self.momentum
                if momentum is None:
                    momentum = 1 / self.num_batches_tracked.item()
                self.running_mean.lerp_(mean.to(self.running_mean), momentum)
                unbiased = var * (total / max(total - 1, 1))
                self.running_var.lerp_(unbiased.to(self.running_var), momentum)
        weight = torch.ones_like(mean) if self.weight is None else self.weight
        bias = torch.zeros_like(mean) if self.bias is None else self.bias
        return _Normalize.apply(x, weight, bias, mean, var, total, self.eps)


class _GlobalBatchNormAct(_GlobalBatchNorm):
    """timm's batch norm with an activation behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def make_global(model: nn.Module, device: torch.device) -> nn.Module:
    """Turn every batch norm into one whose statistics are those of all processes.

    With as many processes as one likes the model then computes what one process computes on the
    whole batch. On CUDA it is torch's SyncBatchNorm. Names of parameters and buffers stay.

    Args:
        model: Is changed; its batch norms may be timm's, with an activation.
        device: Where it is going to run.
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
    if device.type != "cpu":
        return convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, BatchNormAct2d):
            module.__class__ = _GlobalBatchNormAct
        elif isinstance(module, _BatchNorm):
            module.__class__ = _GlobalBatchNorm
    return model


class ChunkStatistics:
    """Updates running statistics once for a batch that passes through the model in chunks.

    The running statistics then move toward the mean of the chunks' by one momentum, as if the
    batch had come whole.

    Args:
        model: Its batch norms are followed; in train mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms = [
            module
            for module in model.modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
        ]

    @contextmanager
    def one_update(self) -> Iterator[ChunkStatistics]:
        """Enter before the first pass of a chunk; leave after the last."""
        before = [
            (norm.momentum, *(buffer.clone() for buffer in norm.buffers(recurse=False)))
            for norm in self._norms
        ]
        try:
            yield self
        finally:
            for norm, (momentum, mean, var, batches) in zip(self._norms, before, strict=True):
                norm.momentum = momentum
                batches += 1
                weight = 1 / batches.item() if momentum is None else momentum
                norm.running_mean.copy_(mean.lerp_(norm.running_mean, weight))
                norm.running_var.copy_(var.lerp_(norm.running_var, weight))
                norm.num_batches_tracked.copy_(batches)

    def weigh(self, chunk: int | None) -> None:
        """Let the next pass count as number ``chunk``, from 0, of a mean; None: not at all."""
        for norm in self._norms:
            norm.momentum = 0.0 if chunk is None else 1 / (chunk + 1)


def _over_places(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.dtype).view(-1, *[1] * (x.ndim - 2))


def _memory_format(x: Tensor) -> torch.memory_format:
    channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format

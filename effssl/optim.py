"""Optimizers and learning-rate schedules, all timm's."""

from __future__ import annotations

import timm.optim
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from effssl.hints import did_you_mean

_FUSED = ("adam", "adamw", "sgd")  # torch steps all of their parameters in one kernel


def create_optimizer(
    model: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    *,
    layer_decay: float | None = None,
) -> torch.optim.Optimizer:
    """Create an optimizer that applies no weight decay to biases and norms.

    Args:
        model: Model whose parameters that require a gradient are optimized.
        name: Name of the optimizer in timm.
        lr: Learning rate.
        weight_decay: Weight decay of the other parameters.
        layer_decay: Factor of the learning rate from each layer to the one below; 1 if None.

    Raises:
        ValueError: If timm has no optimizer of that name.
    """
    names = timm.optim.list_optimizers()
    if name not in names:
        raise ValueError(
            f"unknown optimizer {name!r}; {did_you_mean(name, names, most=3)}"
            "timm.optim.list_optimizers() gives all"
        )
    fused = {"fused": True} if name in _FUSED else {}
    return timm.optim.create_optimizer_v2(
        model, opt=name, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay, **fused
    )


def create_schedule(
    optimizer: torch.optim.Optimizer, lr: float, total_steps: int, warmup_steps: int
) -> CosineLRScheduler:
    """Create a schedule of linear warm-up to ``lr`` and cosine decay to zero.

    The learning rate is a function of the step alone: call ``schedule.step_update(step)`` with the
    number of steps done.

    Args:
        optimizer: Optimizer whose learning rate is set.
        lr: Learning rate after warm-up.
        total_steps: Number of steps, warm-up included.
        warmup_steps: Number of steps of warm-up.
    """
    return CosineLRScheduler(
        optimizer,
        t_initial=total_steps - warmup_steps,
        warmup_t=warmup_steps,
        warmup_lr_init=lr / (warmup_steps + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )

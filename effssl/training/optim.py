"""Optimizer and learning-rate schedule of a run, both timm's."""

from __future__ import annotations

import difflib

import timm.optim
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from effssl.training.config import PretrainConfig


def create_optimizer(model: nn.Module, config: PretrainConfig) -> torch.optim.Optimizer:
    """The optimizer of a run; biases and norms get no weight decay.

    Raises:
        ValueError: If timm has no optimizer of that name.
    """
    names = timm.optim.list_optimizers()
    if config.optimizer not in names:
        near = difflib.get_close_matches(config.optimizer, names, n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ValueError(
            f"unknown optimizer {config.optimizer!r}; {hint}timm.optim.list_optimizers() gives all"
        )
    return timm.optim.create_optimizer_v2(
        model, opt=config.optimizer, lr=config.lr, weight_decay=config.weight_decay
    )


def create_schedule(
    optimizer: torch.optim.Optimizer, config: PretrainConfig, total_steps: int, epoch_steps: int
) -> CosineLRScheduler:
    """Linear warm-up, then cosine decay to zero, a function of the step alone."""
    warmup = min(round(config.warmup_epochs * epoch_steps), total_steps // 10)
    return CosineLRScheduler(
        optimizer,
        t_initial=total_steps - warmup,
        warmup_t=warmup,
        warmup_lr_init=config.lr / (warmup + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )

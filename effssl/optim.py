"""Optimizers and learning-rate schedules, all timm's."""

from __future__ import annotations

import logging

import timm.optim
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from effssl.hints import did_you_mean

logger = logging.getLogger(__name__)

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

    Optimizers that scale each step to the size of the weights, such as lars and lamb, do so for the
    other parameters whatever the weight decay, and never for biases and norms, as LARC and the
    authors' code of Barlow Twins do.

    Args:
        model: Model whose parameters that require a gradient are optimized.
        name: Name of the optimizer in timm.
        lr: Learning rate.
        weight_decay: Weight decay of the other parameters.
        layer_decay: Factor of the learning rate from each layer to the one below; 1 if None.

    Raises:
        ValueError: If timm has no optimizer of that name, or it needs what is not here.
    """
    names = timm.optim.list_optimizers()
    if name not in names:
        raise ValueError(
            f"unknown optimizer {name!r}; {did_you_mean(name, names, most=3)}"
            "timm.optim.list_optimizers() gives all"
        )
    fused = {"fused": True} if name in _FUSED else {}

    def create(decay: float) -> torch.optim.Optimizer:
        try:
            return timm.optim.create_optimizer_v2(
                model, opt=name, lr=lr, weight_decay=decay, layer_decay=layer_decay, **fused
            )
        except (AssertionError, ImportError, RuntimeError, TypeError) as error:
            # of a package that is not installed, or a device that is not there
            why = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"optimizer {name!r} cannot be used here: {why}") from error

    optimizer = create(weight_decay)
    if weight_decay != 0 or "always_adapt" not in optimizer.defaults:
        return optimizer
    # without weight decay timm puts all parameters into one group and scales the step of none
    optimizer = create(1.0)
    for group in optimizer.param_groups:
        group["always_adapt"] = group["weight_decay"] != 0
        group["weight_decay"] = 0.0
    return optimizer


def take_groups_of(optimizer: torch.optim.Optimizer, state: dict, model: nn.Module) -> None:
    """Join the groups of an optimizer if its saved state is of one group, so that it can be loaded.

    Earlier versions put all parameters of lars and lamb without weight decay into one group, in the
    order of the model, and did not scale their steps. A run that began so goes on so.

    Args:
        optimizer: Optimizer from `create_optimizer`.
        state: What its ``state_dict`` returned when it was saved.
        model: Model whose parameters it optimizes.
    """
    groups, saved = optimizer.param_groups, state["param_groups"]
    if not (len(saved) == 1 < len(groups) and "always_adapt" in saved[0]):
        return
    logger.warning(
        "this run began when optimizers without weight decay did not scale their steps to the "
        "weights; it goes on so: start another run for what lars and lamb are"
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups[:] = [groups[0] | {"params": trained}]


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

"""Optimizer and learning-rate schedule of a run, both timm's."""

from __future__ import annotations

import copy
import difflib
import logging

import timm.optim
import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from effssl.model import SSLModel
from effssl.seeding import seeded_generator
from effssl.training.config import PretrainConfig

logger = logging.getLogger(__name__)

_FUSED = ("adam", "adamw", "sgd")  # torch has them in one pass over the parameters
_BASE_BATCH = 256
_PROBE_IMAGES = 4


def create_optimizer(
    model: nn.Module, config: PretrainConfig, lr: float | None = None
) -> torch.optim.Optimizer:
    """The optimizer of a run; biases and norms get no weight decay.

    Args:
        model: Its parameters that require a gradient are optimized.
        config: Names the optimizer, one of timm's.
        lr: Learning rate; that of the configuration, unscaled, if None.

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
        model,
        opt=config.optimizer,
        lr=config.lr if lr is None else lr,
        weight_decay=config.weight_decay,
        **({"fused": True} if config.optimizer in _FUSED else {}),
    )


def scaled_lr(config: PretrainConfig) -> float:
    """The learning rate after warm-up, scaled by the global batch as configured, and logged."""
    ratio = config.batch_size / _BASE_BATCH
    factor = {"none": 1.0, "linear": ratio, "sqrt": ratio**0.5}[config.lr_scaling]
    lr = config.lr * factor
    if config.lr_scaling != "none":
        logger.info(
            "learning rate %.4g = %g x %.4g, %s in the global batch of %d over %d",
            *(lr, config.lr, factor, config.lr_scaling, config.batch_size, _BASE_BATCH),
        )
    return lr


def create_schedule(
    optimizer: torch.optim.Optimizer,
    config: PretrainConfig,
    lr: float,
    total_steps: int,
    epoch_steps: int,
) -> CosineLRScheduler:
    """Linear warm-up to lr, then cosine decay to zero, a function of the step alone."""
    warmup = min(round(config.warmup_epochs * epoch_steps), total_steps // 10)
    return CosineLRScheduler(
        optimizer,
        t_initial=total_steps - warmup,
        warmup_t=warmup,
        warmup_lr_init=lr / (warmup + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )


def freeze_unused_parameters(model: SSLModel) -> list[str]:
    """Freeze the parameters of the backbone on which the loss does not depend.

    The projector's batch norm takes every constant off the features, so that a bias which only
    shifts them, such as that of the last norm of a ViT or ConvNeXt, has a gradient of nothing but
    rounding noise; AdamW, which divides by the size of the gradient, would walk on it and shift the
    features that are published. They are found by passes in float64 of a few images whose features
    are pulled in directions that sum to 0: what is common to all images then gets the gradient 0.

    Args:
        model: Is changed; its recorded input size is used.

    Returns:
        The names of the frozen parameters.
    """
    # by chance the images of one pass may be alike to a parameter that matters
    frozen = _without_gradient(model, 0)
    for attempt in (1, 2):
        frozen = frozen and [name for name in _without_gradient(model, attempt) if name in frozen]
    for name in frozen:
        model.backbone.get_parameter(name).requires_grad_(False)
    return frozen


def _without_gradient(model: SSLModel, attempt: int) -> list[str]:
    """Names of the backbone's parameters on which differences between images do not depend."""
    draw = seeded_generator(0, "probe", attempt)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    probe = copy.deepcopy(model.backbone).double().cpu().eval()
    with torch.no_grad():
        for parameter in probe.parameters():  # some start at 0 and hide what lies behind them
            if parameter.ndim < 2 or not parameter.any():
                parameter += 0.5 * noise(*parameter.shape)
    images = noise(_PROBE_IMAGES, *model.backbone.pretrained_cfg["input_size"])
    features = probe(images * noise(_PROBE_IMAGES, 1, 1, 1) + noise(_PROBE_IMAGES, 1, 1, 1))
    pull = noise(*features.shape)
    names, parameters = zip(*probe.named_parameters(), strict=True)
    gradients = torch.autograd.grad(
        ((pull - pull.mean(0)) * features).sum(), parameters, allow_unused=True
    )
    sizes = [0.0 if g is None else g.square().mean().sqrt().item() for g in gradients]
    typical = torch.tensor([size for size in sizes if size > 0]).median().item()
    return [name for name, size in zip(names, sizes, strict=True) if size < 1e-10 * typical]

"""Learning rate of a run, and which parameters it trains."""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, nn

from effssl.hints import option
from effssl.model import SSLModel
from effssl.seeding import seeded_generator

logger = logging.getLogger(__name__)

_BASE_BATCH = 256
_PROBE_IMAGES = 4
# an optimizer that divides by the size of the gradient takes steps of lr whatever the loss
_USUAL_LR, _TRY_LR = (1e-6, 3e-2), 1e-3
_USUAL_LR_BY_GRADIENT, _TRY_LR_BY_GRADIENT = (1e-4, 30.0), 0.1
_BY_GRADIENT = ("sgd", "momentum", "nesterov", "lars", "larc", "nlar", "adadelta")


def scaled_lr(lr: float, scaling: str, batch_size: int) -> float:
    """Return the learning rate scaled for the global batch, and log it.

    Args:
        lr: Learning rate of a batch of 256.
        scaling: none, linear or sqrt.
        batch_size: Images of the global batch.
    """
    ratio = batch_size / _BASE_BATCH
    factor = {"none": 1.0, "linear": ratio, "sqrt": ratio**0.5}[scaling]
    if scaling != "none":
        logger.info(
            "learning rate %.4g = %g x %.4g, %s in the global batch of %d over %d",
            lr * factor,
            lr,
            factor,
            scaling,
            batch_size,
            _BASE_BATCH,
        )
    return lr * factor


def check_lr(lr: float, optimizer: str) -> None:
    """Warn of a learning rate with which hardly any run learns.

    Args:
        lr: Learning rate after scaling.
        optimizer: Name of the optimizer.
    """
    by_sign = not optimizer.lower().startswith(_BY_GRADIENT)
    low, high = _USUAL_LR if by_sign else _USUAL_LR_BY_GRADIENT
    if not low <= lr <= high:
        logger.warning(
            "learning rate %g is unusual for %s, with which runs learn from %g to %g: "
            "try --lr %g if the loss does not fall",
            lr,
            optimizer,
            low,
            high,
            _TRY_LR if by_sign else _TRY_LR_BY_GRADIENT,
        )


def freeze_unused_parameters(model: SSLModel) -> list[str]:
    """Freeze the parameters of the backbone on which the loss does not depend.

    The batch norm of the projector removes any constant from the features. A bias that only shifts
    them, such as that of the last norm of a ViT or ConvNeXt, has a gradient of rounding noise
    alone. AdamW divides by the size of the gradient, so it would follow the noise and shift the
    published features. Such parameters are found by float64 passes of a few images whose features
    are pulled in directions that sum to 0: whatever is common to all images gets a gradient of 0.

    Args:
        model: Model to change; images of its recorded input size are passed through it.

    Returns:
        Names of the frozen parameters.
    """
    # in a single pass the images may happen to be alike to a parameter that matters
    frozen = _without_gradient(model, 0)
    for attempt in (1, 2):
        frozen = frozen and [name for name in _without_gradient(model, attempt) if name in frozen]
    for name in frozen:
        model.backbone.get_parameter(name).requires_grad_(False)
    return frozen


def keep_less(backbone: nn.Module) -> None:
    """Make a backbone compute its blocks again in the backward pass.

    Raises:
        ValueError: If timm has no way to do so with this backbone.
    """
    name = backbone.pretrained_cfg["architecture"]
    try:
        backbone.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as error:
        raise ValueError(
            f"{option('grad_checkpointing')} does not go with backbone {name!r}: timm cannot "
            f"compute its blocks again; leave it out, and give {option('micro_batch')} to save "
            "memory"
        ) from error


def top_rate(optimizer: torch.optim.Optimizer) -> float:
    """Return the learning rate of the last layers, the largest one."""
    return max(group["lr"] for group in optimizer.param_groups)


def _without_gradient(model: SSLModel, attempt: int) -> list[str]:
    """Names of the backbone's parameters on which differences between images do not depend."""
    draw = seeded_generator(0, "probe", attempt)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    probe = copy.deepcopy(model.backbone).double().cpu().eval()
    with torch.no_grad():
        for parameter in probe.parameters():  # some start at 0 and hide the layers behind them
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

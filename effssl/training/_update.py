"""Update of the weights by the gradient of a step."""

from __future__ import annotations

import math

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn


class Update:
    """Clips the gradient and steps the optimizer, without waiting for the device.

    Args:
        model: Model that is trained.
        optimizer: Optimizer prepared by Accelerate.
        scaler: Gradient scaler of fp16, or None.
        grad_clip: Largest norm of the gradient, if any.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: AcceleratedOptimizer,
        scaler: torch.amp.GradScaler | None,
        grad_clip: float | None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.scaler, self.grad_clip = scaler, grad_clip

    def norm(self) -> Tensor:
        """Return the norm of the gradient, a scalar on the device."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def is_good(self, loss: float, norm: float) -> bool:
        """Return whether to take a step, if only to let the scaler lower its scale."""
        if math.isfinite(loss) and math.isfinite(norm):
            return True
        return self.scaler is not None and math.isfinite(loss) and self.scaler.get_scale() >= 1

    def step(self, norm: Tensor, norm_value: float) -> None:
        """Clip the gradient and update the weights.

        Args:
            norm: Norm of the gradient on the device.
            norm_value: Value of the norm.
        """
        if self.grad_clip is not None and self.grad_clip < norm_value < math.inf:
            parameters = [p for p in self.model.parameters() if p.grad is not None]
            torch.nn.utils.clip_grads_with_norm_(parameters, self.grad_clip, norm)
        if self.scaler is None:
            self.optimizer.step()
            return
        # scaler.step would wait for the device to find an overflow, which the norm has shown
        if math.isfinite(norm_value):
            self.optimizer.optimizer.step()
        self.scaler.update()

    def skip(self) -> None:
        """Leave the weights as they are."""
        if self.scaler is not None:
            self.scaler.update()

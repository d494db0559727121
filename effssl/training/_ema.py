"""Exponential moving average of the weights of a run, which is published in their place."""

from __future__ import annotations

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

_WARMUP = 10.0  # the decay after n updates is at most (n - 1) / (n + 9)


class AveragedWeights:
    """Averages the weights after every step that changed them, on their device.

    Buffers in floating point, such as the statistics of batch norm, are averaged alike; counts are
    copied. After n updates the decay is min(decay, (n - 1) / (n + 9)): the first update copies the
    weights, so that nothing of the initial ones stays, and a short run gives the average over about
    its last tenth.

    Args:
        model: Model to start from, which stays as it is.
        decay: Largest decay, at least 0 and below 1.
        device: Device of the weights.

    Attributes:
        model: Model with the averaged weights, in eval mode.
        updates: Number of updates so far.
    """

    def __init__(self, model: nn.Module, decay: float, device: torch.device) -> None:
        self._average = ModelEmaV3(
            model, decay=decay, use_warmup=True, warmup_gamma=_WARMUP, warmup_power=1.0
        )
        self.model = self._average.module.to(device, memory_format=torch.channels_last)
        self.updates = 0

    def update(self, model: nn.Module) -> None:
        """Take in the weights of a step, without waiting for the device."""
        self.updates += 1
        self._average.update(model, step=self.updates)

    def state_dict(self, weights: dict[str, Tensor]) -> dict:
        """Return what `load_state_dict` takes.

        Args:
            weights: Copy of the state of the averaged model on the CPU.
        """
        return {"model": weights, "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Restore a state."""
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]

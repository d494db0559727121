"""Steps whose loss or gradient is not finite: skipped, counted, and too many end the run."""

from __future__ import annotations

import math

from torch import Tensor, nn

from effssl.training.checkpoint import checkpoints
from effssl.training.config import PretrainConfig
from effssl.training.step import Gradient

IN_A_ROW = 10  # steps that may be skipped one after another


class Faults:
    """Counts skipped steps and undoes what they did to running statistics.

    Args:
        config: Configuration of the run.
        model: Its buffers are kept.

    Attributes:
        skipped: Steps skipped since the run began.
        in_a_row: Of these the last ones without a good step between.
    """

    def __init__(self, config: PretrainConfig, model: nn.Module) -> None:
        self.config = config
        self.skipped = self.in_a_row = 0
        self._buffers = list(model.buffers())
        self._kept: list[Tensor] = []

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on counting where `state_dict` was called."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

    def before_step(self) -> None:
        """Keep the buffers as they are."""
        self._kept = [buffer.clone() for buffer in self._buffers]

    def good_step(self) -> None:
        """End a row of skipped steps."""
        self.in_a_row = 0

    def skip(self, step: int, gradient: Gradient, loss: float, norm: float) -> None:
        """Count a skipped step.

        Raises:
            FloatingPointError: With a diagnosis, if it is the tenth in a row.
        """
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(kept)
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row == IN_A_ROW:
            parts = ", ".join(f"{name} {float(part):.4g}" for name, part in gradient.parts.items())
            what = f"the loss is {loss:.4g} ({parts})"
            if math.isfinite(loss):
                what = f"the gradient's norm is {norm}, though {what}"
            raise FloatingPointError(
                f"{what} at step {step}, the last of {IN_A_ROW} such steps in "
                f"a row: {self.advice()}"
            )

    def check_finite(self, step: int, model: nn.Module) -> None:
        """Check the weights before they are saved.

        Raises:
            FloatingPointError: If one is not finite.
        """
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise FloatingPointError(
                    f"{name} is no longer finite after step {step}: {self.advice()}"
                )

    def advice(self) -> str:
        """What to change, and where the run can go on from."""
        lower = f"lower lr ({self.config.lr:g})"
        if self.config.precision == "fp16":
            lower += " or use precision bf16 or fp32 instead of fp16"
        if self.config.grad_clip is None:
            lower += ", or set grad_clip"
        saved = checkpoints(self.config.run_folder)
        last = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint"
        return f"{lower}; {last}"

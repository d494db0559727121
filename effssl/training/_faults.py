"""Steps whose loss or gradient is not finite: skipped, counted, and too many end the run."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from effssl.training._checkpoint import checkpoints
from effssl.training.config import PretrainConfig

IN_A_ROW = 10  # steps that may be skipped one after another


class NonFiniteGuard:
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
        # of one type each, which are copied together
        self._buffers: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            self._buffers.setdefault(buffer.dtype, []).append(buffer)
        self._kept = {
            dtype: [buffer.clone() for buffer in buffers]
            for dtype, buffers in self._buffers.items()
        }

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on counting where `state_dict` was called."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

    def before_step(self) -> None:
        """Keep the buffers as they are."""
        for dtype, buffers in self._buffers.items():
            torch._foreach_copy_(self._kept[dtype], buffers)

    def good_step(self) -> None:
        """End a row of skipped steps."""
        self.in_a_row = 0

    def skip(self, step: int, loss: float, norm: float, parts: dict[str, float]) -> None:
        """Count a skipped step.

        Args:
            step: Number of the step, from 1.
            loss: The loss.
            norm: Norm of its gradient.
            parts: Parts of the loss by their names.

        Raises:
            FloatingPointError: With a diagnosis, if it is the tenth in a row.
        """
        for dtype, buffers in self._buffers.items():
            torch._foreach_copy_(buffers, self._kept[dtype])
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row == IN_A_ROW:
            named = ", ".join(f"{name} {part:.4g}" for name, part in parts.items())
            what = f"the loss is {loss:.4g} ({named})"
            if math.isfinite(loss):
                what = f"the gradient's norm is {norm}, though {what}"
            raise FloatingPointError(
                f"{what} at step {step}, the last of {IN_A_ROW} such steps in "
                f"a row: {self.advice()}"
            )

    def check_finite(self, step: int, model: nn.Module) -> None:
        """Check the weights before they are saved, with one wait for the device.

        Raises:
            FloatingPointError: If one is not finite.
        """
        tensors = model.state_dict()
        tensors = {k: t for k, t in tensors.items() if t.is_floating_point() and t.numel()}
        largest = torch.nn.utils.get_total_norm(tensors.values(), norm_type=math.inf)
        if largest.isfinite():
            return
        name = next(name for name, tensor in tensors.items() if not tensor.isfinite().all())
        raise FloatingPointError(f"{name} is no longer finite after step {step}: {self.advice()}")

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

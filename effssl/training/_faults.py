"""Skips steps whose loss or gradient is not finite, and ends a run with too many of them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from effssl.training._checkpoint import checkpoints

IN_A_ROW = 10  # consecutive skipped steps that end the run


class NonFiniteGuard:
    """Counts skipped steps and restores the running statistics that they changed.

    Args:
        model: Model whose buffers are restored.
        run_folder: Folder whose checkpoints an error names.
        lr: Learning rate of the configuration, for the advice of an error.
        precision: Precision of the configuration, likewise.
        grad_clip: Gradient clipping of the configuration, likewise.

    Attributes:
        skipped: Steps skipped since the run began.
        in_a_row: Consecutive skipped steps so far.
    """

    def __init__(
        self,
        model: nn.Module,
        run_folder: Path,
        *,
        lr: float,
        precision: str,
        grad_clip: float | None,
    ) -> None:
        self.run_folder = run_folder
        self.lr, self.precision, self.grad_clip = lr, precision, grad_clip
        self.skipped = self.in_a_row = 0
        # buffers of one dtype are copied together
        self._buffers: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            self._buffers.setdefault(buffer.dtype, []).append(buffer)
        self._kept = {
            dtype: [buffer.clone() for buffer in buffers]
            for dtype, buffers in self._buffers.items()
        }

    def state_dict(self) -> dict[str, int]:
        """Return the counts."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore the counts."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

    def before_step(self) -> None:
        """Store the buffers."""
        # the public copy_ would launch a kernel a buffer; torch has no public copy of a list
        for dtype, buffers in self._buffers.items():
            torch._foreach_copy_(self._kept[dtype], buffers)

    def good_step(self) -> None:
        """Note a step that was taken."""
        self.in_a_row = 0

    def skip(self, step: int, loss: float, norm: float, parts: dict[str, float]) -> None:
        """Note a skipped step and restore the buffers.

        Args:
            step: Number of the step, from 1.
            loss: Loss of the step.
            norm: Norm of the gradient.
            parts: Parts of the loss by name.

        Raises:
            FloatingPointError: If it is the tenth in a row; the message is a diagnosis.
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
            FloatingPointError: If a weight is not finite.
        """
        tensors = model.state_dict()
        tensors = {k: t for k, t in tensors.items() if t.is_floating_point() and t.numel()}
        largest = torch.nn.utils.get_total_norm(tensors.values(), norm_type=math.inf)
        if largest.isfinite():
            return
        name = next(name for name, tensor in tensors.items() if not tensor.isfinite().all())
        raise FloatingPointError(f"{name} is no longer finite after step {step}: {self.advice()}")

    def advice(self) -> str:
        """Return what to change, and which checkpoint to resume from."""
        lower = f"lower lr ({self.lr:g})"
        if self.precision == "fp16":
            lower += " or use precision bf16 or fp32 instead of fp16"
        if self.grad_clip is None:
            lower += ", or set grad_clip"
        saved = checkpoints(self.run_folder)
        last = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint"
        return f"{lower}; {last}"

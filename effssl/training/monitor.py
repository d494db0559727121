"""What a run tells while it goes: metrics.jsonl, the tracker, the progress bar, the log."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from pathlib import Path

from accelerate import Accelerator
from tqdm import tqdm

from effssl.data.broken import BrokenImages
from effssl.training.config import PretrainConfig

logger = logging.getLogger(__name__)


class Monitor:
    """Writes a run's metrics; silent on every process but the main one.

    Args:
        accelerator: Says which process this is and holds the tracker.
        config: Configuration of the run.
        broken: Images that could not be read.
        start_step: Steps done before, when resuming; later lines of metrics.jsonl are cut off.
        total_steps: Steps of the whole run.
        epoch_steps: Steps of an epoch.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: PretrainConfig,
        broken: BrokenImages,
        start_step: int,
        total_steps: int,
        epoch_steps: int,
    ) -> None:
        self.accelerator, self.config, self.broken = accelerator, config, broken
        self.total_steps, self.epoch_steps = total_steps, epoch_steps
        self.started = self.window_start = time.perf_counter()
        self.start_step = self.window_step = start_step
        self.file = None
        if accelerator.is_main_process:
            path = config.run_folder / "metrics.jsonl"
            _cut_after(path, start_step)
            self.file = open(path, "a", buffering=1)
        self.bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            desc="pretrain",
            dynamic_ncols=True,
            disable=not (accelerator.is_main_process and sys.stderr.isatty()),
        )

    def step(self, step: int, loss, parts: dict, lr: float) -> None:
        """Note a finished step; every ``log_every``-th and an epoch's last is checked and written.

        The step before a checkpoint is thus always checked.

        Raises:
            FloatingPointError: If the loss of such a step is not finite.
            ValueError: If more than 1 % of the images are broken.
        """
        self.bar.update()
        epoch_ends = step % self.epoch_steps == 0 or step == self.total_steps
        if step % self.config.log_every and not epoch_ends:
            return
        self.broken.share()
        parts = {name: float(part) for name, part in parts.items()}
        loss = float(loss.detach())
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {step} ({_join(parts)}): lower lr "
                f"({self.config.lr:g}), or use precision fp32 or bf16 instead of fp16"
            )
        now = time.perf_counter()
        images = (step - self.window_step) * self.config.batch_size
        views_per_s = images * self.config.views / (now - self.window_start)
        self.window_start, self.window_step = now, step
        if self.file is None:
            return
        epoch = step / self.epoch_steps
        metrics = {"loss": loss, **parts, "lr": lr, "views_per_s": round(views_per_s, 1)}
        metrics["broken"] = len(self.broken)
        self.file.write(json.dumps({"step": step, "epoch": round(epoch, 4), **metrics}) + "\n")
        self.accelerator.log(metrics, step=step)
        self.bar.set_postfix_str(f"loss {loss:.4g}, {views_per_s:,.0f} views/s")
        if self.bar.disable and epoch_ends:
            minutes = (now - self.started) / 60
            left = minutes * (self.total_steps - step) / (step - self.start_step)
            logger.info(
                "step %d of %d: loss %.4g, %.0f views/s, %.1f min, %.1f min left",
                *(step, self.total_steps, loss, views_per_s, minutes, left),
            )

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exception) -> None:
        """Finish the bar, the file and the tracker."""
        self.bar.close()
        if self.file is not None:
            self.file.close()
        self.accelerator.end_training()


def _join(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in parts.items())


def _cut_after(path: Path, step: int) -> None:
    """Drop the lines of later steps, and a torn last one, so that every step stands there once."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] > step:
                break
        except ValueError:
            break
        kept.append(line + "\n")
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    partial.replace(path)

"""Metrics of a run: metrics.jsonl, the tracker, the progress bar and the log."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from effssl.atomic import open_to_append
from effssl.progress import Stage, spell
from effssl.training._collapse import CollapseWatch, collapse_signs, largest_rank, sample_rows
from effssl.training._learning import LossScale, of_knn, of_ranks
from effssl.training._metrics import METRICS, cut_metrics
from effssl.training._state import RunState
from effssl.training._step import StepOutput
from effssl.training.config import PretrainConfig

logger = logging.getLogger(__name__)


def start_tracker(
    accelerator: Accelerator, config: PretrainConfig, step: int, tracker_id: str
) -> None:
    """Start the configured tracker, if any; a resumed run continues its own.

    Args:
        accelerator: Accelerator that holds the tracker.
        config: Configuration of the run.
        step: Number of steps done before, when resuming.
        tracker_id: Identifier of the run in the project.
    """
    if config.tracker is None:
        return
    name = config.run_folder.name
    options = {
        "tensorboard": {"purge_step": step + 1},
        "trackio": {"name": f"{name}-{tracker_id[:6]}", "resume": "allow"},
        "wandb": {"name": name, "id": tracker_id, "resume": "allow", "dir": config.run_folder},
    }
    values = config.values()
    values |= {f"view.{name}": value for name, value in values.pop("view").items()}
    # TensorBoard takes neither objects nor several numbers
    flat = {
        k: v if isinstance(v, int | float | str) else str(v)
        for k, v in values.items()
        if v is not None
    }
    accelerator.init_trackers("effssl", flat, init_kwargs=options)


class Monitor:
    """Writes the metrics of a run; only the main process writes.

    Args:
        accelerator: Accelerator that holds the tracker.
        config: Configuration of the run.
        state: State of the run, with the counts of broken images and of skipped steps. When
            resuming, lines of metrics.jsonl after its step are removed.
        total_steps: Number of steps of the whole run.
        epoch_steps: Number of steps of an epoch.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: PretrainConfig,
        state: RunState,
        total_steps: int,
        epoch_steps: int,
    ) -> None:
        self.accelerator, self.config = accelerator, config
        self.state = state
        self.total_steps, self.epoch_steps = total_steps, epoch_steps
        self.started = self.window_start = time.perf_counter()
        self.start_step = start_step = state.step
        self.window_seen = state.images_seen
        self.waited = 0.0
        self.collapse = CollapseWatch(total_steps, config.batch_size, config.projector_dim)
        self.scale = LossScale(config)
        self._due = None  # the line to be written
        self.file = None
        if accelerator.is_main_process:
            cut_metrics(config.run_folder, start_step)
            self.file = open_to_append(config.run_folder / METRICS)
        shown = accelerator.is_main_process
        self.stage = Stage("pretrain", total_steps, "step", done=start_step, shown=shown)

    def waiting(self, batches: Iterable) -> Iterator:
        """Iterate over batches and measure the time spent waiting for them."""
        batches = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Exclude a block from the time of training."""
        start = time.perf_counter()
        yield
        self.window_start += time.perf_counter() - start

    def is_due(self, step: int) -> bool:
        """Return whether a step gets a line: every ``log_every``-th and the last of an epoch."""
        return step % self.config.log_every == 0 or self.ends_epoch(step)

    def ends_epoch(self, step: int) -> bool:
        """Return whether a step is the last of an epoch or of the run."""
        return step % self.epoch_steps == 0 or step == self.total_steps

    def step(
        self,
        step: int,
        gradient: StepOutput | None,
        loss: float,
        norm: float,
        parts: dict[str, float],
        lr: float,
        *,
        knn: float | None = None,
        spectrum: dict | None = None,
    ) -> None:
        """Record a finished step; `write` writes its line if one is due.

        Args:
            step: Number of the step, from 1.
            gradient: Output of the step, with features if a line is due; None if its batch was
                skipped, which leaves the line without what follows.
            loss: Value of the loss.
            norm: Norm of the gradient before clipping.
            parts: Values of the parts of the loss by name.
            lr: Learning rate.
            knn: Top-1 accuracy in percent, if it was measured after this step.
            spectrum: Spectra from `OnlineEvaluation`, if they were measured after this step.

        Raises:
            ValueError: If too many images are broken (`check_broken`).
        """
        self.stage.update()
        if self.config.compile and step == self.start_step + 1:
            self.stage.say("")
        if not self.is_due(step):
            return
        self.state.broken.share()
        rows = None
        if math.isfinite(loss):
            rows = [sample_rows(x) for x in (gradient.features, gradient.projections)]
        now = time.perf_counter()
        window, self.window_start = now - self.window_start, now
        seen = self.state.images_seen
        images, self.window_seen = seen - self.window_seen, seen
        more = {} if knn is None else {"knn": knn}
        if knn is not None or step == min(self.config.log_every, self.epoch_steps):
            more |= self._start()
        after = {
            **_of_spectrum(spectrum),
            "views_per_s": round(images * self.config.all_views / window, 1),
            "waiting": round(self.waited / window, 4),
            "memory_mb": round(_peak_memory(self.accelerator.device) / 1e6),
            "broken": len(self.state.broken),
            "skipped_steps": self.state.faults.skipped,
            "skipped_batches": self.state.skipped_batches,
        }
        self.waited = 0.0
        before = {"loss": loss, **parts, "lr": lr}
        if gradient is not None:
            before["grad_norm"] = norm
        self._due = step, before, parts, rows, more | after, spectrum

    def write(self) -> None:
        """Write the line that is due, if any.

        Call it while the device computes the next step: the ranks of features and projections take
        tens of milliseconds of CPU time.
        """
        if self._due is None:
            return
        (step, before, parts, rows, after, spectrum), self._due = self._due, None
        signs = {}
        if rows is not None:
            signs = collapse_signs(*rows)
            if self.collapse.update(step, signs):
                alarm = self.collapse.alarm or "no sign of collapse any more"
                logger.warning("step %d: %s", step, alarm)
        if self.file is None:
            return
        metrics = before | signs | after
        epoch = round(step / self.epoch_steps, 4)
        line = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        whole = {} if spectrum is None else {"spectrum": spectrum}
        self._write({"step": step, "epoch": epoch, **line, **whole})
        self.accelerator.log({k: v for k, v in line.items() if v is not None}, step=step)
        said = self.scale.of_loss(before["loss"]) if "grad_norm" in before else "batch skipped"
        views_per_s = f"{metrics['views_per_s']:,.0f} views/s"
        self.stage.say(f"{said}, {views_per_s}")
        # a terminal has the bar; its lines are those that say more
        if self.ends_epoch(step) and not (self.stage.has_bar and spectrum is None):
            said = [f"{said} ({self.scale.of_parts(parts)})" if parts else said]
            if "knn" in metrics:
                said.append(of_knn(metrics["knn"], metrics.get("knn_start")))
            if signs:
                names = zip(("feature", "projection"), rows, strict=True)
                said.append(of_ranks(signs, {name: largest_rank(*x.shape) for name, x in names}))
            self._log(step, [*said, views_per_s])

    def _log(self, step: int, said: list[str]) -> None:
        """Log a line about a step, with the time that passed and the time that is left."""
        seconds = self.window_start - self.started
        left = seconds * (self.total_steps - step) / (step - self.start_step)
        said = [*said, spell(seconds), f"{spell(left)} left"]
        logger.info("step %d of %d: %s", step, self.total_steps, ", ".join(said))
        self.stage.has_spoken()

    def _start(self) -> dict[str, float]:
        """Accuracy of the initial weights, if it was measured."""
        knn = self.state.knn_start
        return {} if knn is None else {"knn_start": knn}

    def _write(self, line: dict) -> None:
        try:
            self.file.write(json.dumps(line) + "\n")
        except OSError as error:  # such as a full disk; the checkpoint's error says what to do
            logger.error("cannot write metrics.jsonl: %s", error.strerror)

    def __enter__(self) -> Monitor:
        """Show the progress of training, and explain the scale of the loss."""
        if self.file is not None:
            logger.info("%s", self.scale.explain())
        if self.config.compile:
            self.stage.say("compiling the backbone, which takes minutes")
        self.stage.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Write the last line and close the progress, the file and the tracker."""
        self.write()
        self.stage.__exit__(*exception)
        if self.file is not None:
            try:
                self.file.close()
            except OSError as error:  # a full disk leaves text in the buffer
                logger.error("cannot write metrics.jsonl: %s", error.strerror)
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.trackers = []


def _of_spectrum(spectrum: dict | None) -> dict[str, float]:
    """Metrics of a spectrum that are a single number."""
    return {
        f"{name.removesuffix('s')}_{key}": record[key]
        for name, record in (spectrum or {}).items()
        for key in ("alpha", "rankme")
        if record[key] is not None
    }


def _peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of tensors on a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows has none
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak

"""What a run tells while it goes: metrics.jsonl, the tracker, the progress bar, the log."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from effssl.data._broken import BrokenImages
from effssl.training._collapse import collapse_alarm, collapse_signs, sample_rows
from effssl.training._faults import NonFiniteGuard
from effssl.training._step import StepOutput
from effssl.training.config import PretrainConfig

logger = logging.getLogger(__name__)

_SETTLED = 0.1  # share of a run after which collapse is no longer that of the first weights


def start_tracker(
    accelerator: Accelerator, config: PretrainConfig, step: int, tracker_id: str
) -> None:
    """Start the tracker that the configuration names, if any, or go on with that of the run.

    Args:
        accelerator: Holds the tracker.
        config: Configuration of the run.
        step: Steps done before, when resuming.
        tracker_id: Names the run among others of the project.
    """
    if config.tracker is None:
        return
    name = config.run_folder.name
    options = {
        "tensorboard": {"purge_step": step + 1},
        "trackio": {"name": f"{name}-{tracker_id[:6]}", "resume": "allow"},
        "wandb": {"name": name, "id": tracker_id, "resume": "allow", "dir": config.run_folder},
    }
    flat = {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
    accelerator.init_trackers("effssl", flat, init_kwargs=options)


def read_metrics(run_folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl, to the first that is torn; none if there is no file."""
    lines: list[dict] = []
    path = run_folder / "metrics.jsonl"
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
    return lines


def read_history(run_folder: Path, step: int, points: int = 200) -> dict[str, list]:
    """Columns of metrics.jsonl up to a step, of so many lines, evenly spread, and those of a look.

    Numbers have five digits, and None stands where a line lacks one or it was not finite. Spectra
    are left out.
    """
    lines = [x for x in read_metrics(run_folder) if x["step"] <= step]
    every = math.ceil(len(lines) / points)
    kept = [line for i, line in enumerate(lines, 1) if i % every == 0 or "spectrum" in line]
    names = dict.fromkeys(name for line in kept for name in line if name != "spectrum")
    return {name: [_short(line.get(name)) for line in kept] for name in names}


class Monitor:
    """Writes a run's metrics; silent on every process but the main one.

    Args:
        accelerator: Says which process this is and holds the tracker.
        config: Configuration of the run.
        broken: Images that could not be read.
        faults: Steps that were skipped.
        start_step: Steps done before, when resuming; later lines of metrics.jsonl are cut off.
        total_steps: Steps of the whole run.
        epoch_steps: Steps of an epoch.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: PretrainConfig,
        broken: BrokenImages,
        faults: NonFiniteGuard,
        start_step: int,
        total_steps: int,
        epoch_steps: int,
    ) -> None:
        self.accelerator, self.config = accelerator, config
        self.broken, self.faults = broken, faults
        self.total_steps, self.epoch_steps = total_steps, epoch_steps
        self.started = self.window_start = time.perf_counter()
        self.start_step = self.window_step = start_step
        self.waited = 0.0
        self.alarmed, self.doubts = False, 0
        self._due = None  # what a line is still to be written of
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

    def waiting(self, batches: Iterable) -> Iterator:
        """The batches of an epoch; the time that they take to come is counted."""
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
        """Do not count what is done meanwhile as time of training."""
        start = time.perf_counter()
        yield
        self.window_start += time.perf_counter() - start

    def is_due(self, step: int) -> bool:
        """Whether a step gets a line: every ``log_every``-th does, and an epoch's last."""
        return step % self.config.log_every == 0 or self.ends_epoch(step)

    def ends_epoch(self, step: int) -> bool:
        """Whether a step is the last of an epoch or of the run."""
        return step % self.epoch_steps == 0 or step == self.total_steps

    def step(
        self,
        step: int,
        gradient: StepOutput,
        loss: float,
        norm: float,
        parts: dict[str, float],
        lr: float,
        *,
        knn: float | None = None,
        spectrum: dict | None = None,
    ) -> None:
        """Note a finished step; if a line is due, `write` writes it.

        Args:
            step: Its number, from 1.
            gradient: What was computed, features included where a line is due.
            loss: Its value.
            norm: Norm of the gradient before it was clipped.
            parts: Parts of the loss by their names.
            lr: Learning rate.
            knn: Top-1 accuracy in percent, if it was measured after this step.
            spectrum: Of features and projections, likewise, from `OnlineEvaluation`.

        Raises:
            ValueError: If more than 1 % of the images are broken.
        """
        self.bar.update()
        if not self.is_due(step):
            return
        self.broken.share()
        rows = None
        if math.isfinite(loss):
            rows = [sample_rows(x) for x in (gradient.features, gradient.projections)]
        now = time.perf_counter()
        window, self.window_start = now - self.window_start, now
        images, self.window_step = (step - self.window_step) * self.config.batch_size, step
        more = {} if knn is None else {"knn": knn}
        after = {
            **_of_spectrum(spectrum),
            "views_per_s": round(images * self.config.views / window, 1),
            "waiting": round(self.waited / window, 4),
            "memory_mb": round(_peak_memory(self.accelerator.device) / 1e6),
            "broken": len(self.broken),
            "skipped_steps": self.faults.skipped,
        }
        self.waited = 0.0
        before = {"loss": loss, **parts, "lr": lr, "grad_norm": norm}
        self._due = step, before, rows, more | after, spectrum

    def write(self) -> None:
        """Write the line of the last step that one was due for, if that was not done yet.

        Called while the device computes the next step: the ranks of features and projections take
        a CPU tens of milliseconds.
        """
        if self._due is None:
            return
        (step, before, rows, after, spectrum), self._due = self._due, None
        signs = {}
        if rows is not None:
            signs = collapse_signs(*rows)
            self._sound_alarm(step, signs)
        if self.file is None:
            return
        metrics = before | signs | after
        epoch = round(step / self.epoch_steps, 4)
        line = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        whole = {} if spectrum is None else {"spectrum": spectrum}
        self._write({"step": step, "epoch": epoch, **line, **whole})
        self.accelerator.log({k: v for k, v in line.items() if v is not None}, step=step)
        loss, views_per_s, knn = (metrics.get(name) for name in ("loss", "views_per_s", "knn"))
        self.bar.set_postfix_str(f"loss {loss:.4g}, {views_per_s:,.0f} views/s")
        if self.bar.disable and self.ends_epoch(step):
            minutes = (self.window_start - self.started) / 60
            left = minutes * (self.total_steps - step) / (step - self.start_step)
            of_knn = "" if knn is None else f", k-NN {knn:.1f} %"
            logger.info(
                "step %d of %d: loss %.4g%s, %.0f views/s, %.1f min, %.1f min left",
                *(step, self.total_steps, loss, of_knn, views_per_s, minutes, left),
            )

    def _write(self, line: dict) -> None:
        try:
            self.file.write(json.dumps(line) + "\n")
        except OSError as error:  # a full disk; the checkpoint's message says what to do
            logger.error("cannot write metrics.jsonl: %s", error.strerror)

    def _sound_alarm(self, step: int, signs: dict[str, float]) -> None:
        if step < _SETTLED * self.total_steps:
            return
        alarm = collapse_alarm(signs, self.config.batch_size, self.config.projector_dim)
        if bool(alarm) == self.alarmed:
            self.doubts = 0
            return
        self.doubts += 1
        if self.doubts == 2:  # lines in a row: at the border the signs come and go
            self.alarmed, self.doubts = bool(alarm), 0
            logger.warning("step %d: %s", step, alarm or "no sign of collapse any more")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exception) -> None:
        """Finish the last line, the bar, the file and the tracker."""
        self.write()
        self.bar.close()
        if self.file is not None:
            try:
                self.file.close()
            except OSError as error:  # what a full disk has kept in its buffer
                logger.error("cannot write metrics.jsonl: %s", error.strerror)
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.trackers = []


def _of_spectrum(spectrum: dict | None) -> dict[str, float]:
    """What of a spectrum is one number each."""
    return {
        f"{name.removesuffix('s')}_{key}": record[key]
        for name, record in (spectrum or {}).items()
        for key in ("alpha", "rankme")
        if record[key] is not None
    }


def _short(value: float | None) -> float | None:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _peak_memory(device: torch.device) -> int:
    """Bytes: of tensors on a GPU, else of the process, at the most so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _cut_after(path: Path, step: int) -> None:
    """Drop the lines of later steps, and a torn last one, so that every step stands there once."""
    if not path.exists():
        return
    kept = [json.dumps(x) + "\n" for x in read_metrics(path.parent) if x["step"] <= step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    partial.replace(path)

"""Content of a run folder, finished or running."""

from __future__ import annotations

import logging
import math
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from effssl.foreign import read_json
from effssl.hub._folder import is_model_folder, read_record
from effssl.local import check_run_folder_name
from effssl.records import TrainingRecord
from effssl.training._metrics import read_metrics
from effssl.training.config import PretrainConfig

logger = logging.getLogger(__name__)

_LATEST = 20  # lines that determine the current speed


@dataclass(frozen=True)
class Run:
    """A run, read from its folder.

    Attributes:
        folder: Run folder.
        config: Configuration.
        lines: Lines of metrics.jsonl, without an incomplete last one.
        training: Record of the model folder; an empty one if there is none.
        total_steps: Steps of the whole run; None if unknown. Before the end of the first epoch it
            is an estimate from the rounded epoch of the last line.
        state: ``finished``, ``running`` or ``stopped``.
        seconds: Training time between each line and the previous one; None where unknown.
        silent: Minutes since the last line was written, or since the start.
        last_sign: Time of that, in seconds since 1970.
    """

    folder: Path
    config: PretrainConfig
    lines: list[dict]
    training: TrainingRecord
    total_steps: int | None
    state: str
    seconds: list[float | None]
    silent: float
    last_sign: float

    @property
    def step(self) -> int:
        """Last known step: a run that is stopped writes its model without a line."""
        last = self.lines[-1]["step"] if self.lines else 0
        return max(last, self.training.step or 0)

    @property
    def knn_start(self) -> float | None:
        """Accuracy in percent of the weights before training; None if unknown."""
        return next((x["knn_start"] for x in self.lines if x.get("knn_start") is not None), None)

    @property
    def has_model(self) -> bool:
        """Whether there is a model folder with its weights."""
        return is_model_folder(self.folder / "model")

    @property
    def model_folder(self) -> Path:
        """Path of the model folder, if there is one."""
        return self.folder / "model"

    @property
    def minutes(self) -> float:
        """Minutes of training so far, over all launches."""
        if self.training.step == self.step and self.training.minutes is not None:
            return self.training.minutes
        return sum(x for x in self.seconds if x is not None) / 60

    @property
    def minutes_left(self) -> float | None:
        """Minutes to the end, at the speed of the latest lines; None if unknown."""
        pace = self.step_seconds
        if pace is None or self.total_steps is None:
            return None
        return (self.total_steps - self.step) * pace / 60

    @property
    def step_seconds(self) -> float | None:
        """Median seconds of the latest steps; None if unknown."""
        steps = [b - a for a, b in pairwise([0, *(line["step"] for line in self.lines)])]
        pairs = list(zip(self.seconds, steps, strict=True))[-_LATEST:]
        known = [seconds / n for seconds, n in pairs if seconds is not None and n > 0]
        return statistics.median(known) if known else None

    @property
    def name_to_type(self) -> str:
        """Name of the folder for a command, without more of its path than config.json holds."""
        given = self.config.run_folder
        same = given.resolve() == self.folder.resolve()
        return str(given if same else self.folder.resolve().name)

    def points(self, most: int) -> list[dict]:
        """Return at most so many lines, evenly spread, with the last one."""
        every = max(1, math.ceil(len(self.lines) / most))
        return self.lines[::-1][::every][::-1]

    def looks(self) -> list[dict]:
        """Return the lines with a spectrum."""
        return [line for line in self.lines if isinstance(line.get("spectrum"), dict)]


def read_run(folder: str | Path) -> Run:
    """Read a run folder.

    Raises:
        FileNotFoundError: If there is no such folder, or no config.json in it.
        ValueError: If it is no run folder, or its config.json is not of this version.
    """
    folder = Path(folder)
    check_run_folder_name(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no config.json, so it is no run folder: give the --output of effssl "
            "pretrain"
        )
    try:
        values = read_json(path)
    except ValueError:
        values = {
            "backbone": None,
            "projector_dim": None,
            "views": None,
        }  # left to load
    if not {"backbone", "projector_dim", "views"} <= values.keys():
        way_out = "give the --output of effssl pretrain"
        if "architecture" in values:
            way_out = "it is a model folder; give the run folder that holds it"
        raise ValueError(f"{path} is not the configuration of a run: {way_out}")
    config = PretrainConfig.load(path)
    metrics = folder / "metrics.jsonl"
    lines = read_metrics(folder)
    try:
        training = read_record(folder / "model")
    except (ValueError, OSError) as error:
        logger.warning("%s", error)
        training = TrainingRecord()
    total = _total_steps(config, lines)
    last_sign = (metrics if lines else path).stat().st_mtime
    silent = max(0.0, time.time() - last_sign) / 60
    seconds = _seconds(config, lines)
    known = [x for x in seconds if x is not None]
    # the first line comes after decoding and compilation
    patience = max(5.0, 5 * statistics.median(known) / 60) if known else 15.0
    state = "running" if silent < patience else "stopped"
    if lines and total is not None and lines[-1]["step"] >= total:
        state = "finished"
    return Run(folder, config, lines, training, total, state, seconds, silent, last_sign)


def _total_steps(config: PretrainConfig, lines: list[dict]) -> int | None:
    ahead = [line for line in lines if line.get("epoch")]
    whole = [line for line in ahead if line["epoch"] % 1 == 0]
    if not ahead:
        return config.max_steps
    line = (whole or ahead)[-1]
    total = config.epochs * round(line["step"] / line["epoch"])
    return total if config.max_steps is None else min(total, config.max_steps)


def _seconds(config: PretrainConfig, lines: list[dict]) -> list[float | None]:
    seconds, before = [], 0
    for line in lines:
        views = (line["step"] - before) * config.batch_size * config.all_views
        speed, before = line.get("views_per_s"), line["step"]
        seconds.append(views / speed if speed else None)
    return seconds

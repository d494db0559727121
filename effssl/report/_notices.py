"""Errors, warnings and notes about a run, found in its files."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import NamedTuple

from effssl.evaluation._verdict import not_better, too_few_steps
from effssl.loss_specs import least_images
from effssl.report._run import Run
from effssl.training._collapse import collapse_alarm
from effssl.training._learning import LossScale

NO_MODEL = "There is no model yet: the first one comes with the end of an epoch."
_SETTLED = 0.1  # share of a run before collapse is judged, as in the monitor
_LONG_WAIT = 0.2  # share of the time
_LEAST_LOOKED_AT = 500  # images; of fewer the accuracy is known to several percent only
_LATEST = 20  # number of lines
_SIGNS = ("feature_std", "feature_rank", "projection_std", "projection_rank")


class Notice(NamedTuple):
    """A notice about a run.

    Attributes:
        level: ``error`` (the run is unusable as it is), ``warning`` or ``note``.
        text: Text that says what is wrong and what to do.
    """

    level: str
    text: str


def find_notices(run: Run, *, labeled: bool | None) -> list[Notice]:
    """Return the notices about a run, the worst first.

    Args:
        run: The run.
        labeled: Whether its images have labels; None if unknown.
    """
    found = [*_of_training(run), *_of_speed(run), *_of_evaluation(run, labeled)]
    return sorted(found, key=lambda notice: ("error", "warning", "note").index(notice.level))


def evaluate_command(run: Run, *, labeled: bool | None) -> str:
    """Return the command that evaluates the features of a run."""
    folder = shlex.quote(run.name_to_type)
    if labeled is not False:
        return f"effssl evaluate {folder}"
    split = shlex.quote(run.config.split)
    return f"effssl evaluate {folder} --protocols spectrum --test-split {split}"


def _of_training(run: Run) -> Iterator[Notice]:
    since, alarm = _collapse(run)
    if alarm:
        yield Notice("error", f"Since step {since:,}: {alarm}.")
    if run.state == "stopped":
        yield Notice(
            "error",
            f"The run has stopped at step {run.step:,}{_of_total(run)}: nothing was logged since "
            f"{date(run.last_sign)}, {run.silent:,.0f} minutes ago. The same command with "
            "--resume goes on.",
        )
    # the line of a skipped batch has no norm
    lost = [x["step"] for x in run.lines if x.get("loss") is None and "grad_norm" in x]
    if lost:
        level = "error" if lost[-1] == run.lines[-1]["step"] else "warning"
        yield Notice(
            level,
            f"The loss was not finite in {len(lost):,} of {len(run.lines):,} lines, at step "
            f"{lost[-1]:,} for the last time: a lower lr, or grad_clip, prevents it.",
        )
    last = run.lines[-1] if run.lines else {}
    if last.get("skipped_steps"):
        yield Notice(
            "warning",
            f"{last['skipped_steps']:,} of {run.step:,} steps were skipped, since the loss or its "
            "gradient was not finite: a lower lr, or grad_clip, prevents it.",
        )
    if last.get("skipped_batches"):
        least = least_images(run.config.loss, run.config.projector_dim)
        yield Notice(
            "warning",
            f"{last['skipped_batches']:,} of {run.step:,} steps were skipped, since broken images "
            f"left fewer than {least} of their images: mend them, or take a larger batch.",
        )
    if last.get("broken"):
        known = run.training.images
        images = "" if known is None else f" of {known + last['broken']:,}"
        yield Notice("warning", f"{last['broken']:,}{images} images are broken and were left out.")
    yield from _of_learning(run)
    if run.state == "running":
        yield Notice("note", f"The run is going on: step {run.step:,}{_of_total(run)}.")
    if not run.has_model:
        yield Notice("note", NO_MODEL)


def _of_learning(run: Run) -> Iterator[Notice]:
    settled = [x for x in run.lines if run.total_steps and x["step"] > _SETTLED * run.total_steps]
    losses = [x["loss"] for x in settled if x.get("loss") is not None]
    scale = LossScale(run.config)
    if losses and scale.nothing_learned(losses[-1]):
        yield Notice(
            "warning",
            f"The last {scale.of_loss(losses[-1])}. {scale.blank:.4g} is the loss of projections "
            "that are the same for all images: try another lr, or a larger batch.",
        )
    looks = [x for x in settled if x.get("knn") is not None and _looked_at(x) >= _LEAST_LOOKED_AT]
    if looks and run.knn_start is not None and looks[-1]["knn"] <= run.knn_start:
        yield Notice(
            "warning",
            f"The k-NN accuracy, {looks[-1]['knn']:.1f} %, is not above that of the weights before "
            f"training, {run.knn_start:.1f} %: train longer, or look at the views.",
        )


def _looked_at(line: dict) -> int:
    """Return the number of images that a line's k-NN accuracy comes from."""
    return (line.get("spectrum", {}).get("features") or {}).get("images", 0)


def _of_speed(run: Run) -> Iterator[Notice]:
    waits = [x["waiting"] for x in run.lines[-_LATEST:] if x.get("waiting") is not None]
    if waits and statistics.median(waits) > _LONG_WAIT:
        yield Notice(
            "warning",
            f"Training waits for images {100 * statistics.median(waits):.0f} % of the time: more "
            "--workers decode faster, and a --cache-gb that holds all images decodes them once.",
        )


def _of_evaluation(run: Run, labeled: bool | None) -> Iterator[Notice]:
    for found in run.training.evaluation:
        for decided, text in not_better(found):
            level = "warning" if decided == "worse" else "note"
            yield Notice(level, f"{text}, on {found.dataset or 'a data set that is not public'}.")
        for text in too_few_steps(found):
            yield Notice("warning", f"{text[0].upper()}{text[1:]}.")
    if labeled is False:
        yield Notice(
            "note",
            "The images have no labels, so there is no k-NN accuracy, and no class is shown.",
        )
    if not run.training.evaluation and run.has_model:
        command = evaluate_command(run, labeled=labeled)
        yield Notice("note", f"The features were not evaluated: {command}")


def _collapse(run: Run) -> tuple[int, str | None]:
    """Return since when and how a run is collapsed, by the rule of the monitor: two lines agree."""
    alarm, since, doubts = None, 0, 0
    for line in run.lines:
        signs = {name: line.get(name) for name in _SIGNS}
        settled = run.total_steps is None or line["step"] >= _SETTLED * run.total_steps
        if None in signs.values() or not settled:
            continue
        now = collapse_alarm(signs, run.config.batch_size, run.config.projector_dim)
        doubts = doubts + 1 if bool(now) != bool(alarm) else 0
        if doubts == 2:
            alarm, since, doubts = now, line["step"], 0
        elif alarm and now:
            alarm = now  # with the numbers of the last line
    return since, alarm


def _of_total(run: Run) -> str:
    return "" if run.total_steps is None else f" of {run.total_steps:,}"


def date(seconds: float) -> str:
    """Format a time in UTC, to the minute."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")

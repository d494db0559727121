"""Tables of a report: facts, evaluations, configuration, metrics."""

from __future__ import annotations

import dataclasses
import logging
import shlex
import statistics

from effssl.evaluation._notes import protocol_notes
from effssl.evaluation._verdict import difference_rows, verdict
from effssl.hub._folder import build_sketch
from effssl.hub._model_config import read_config
from effssl.loss_specs import LOSSES
from effssl.own import is_object
from effssl.records import EvaluationRecord
from effssl.report._run import Run

logger = logging.getLogger(__name__)

_LINES = 200


def facts(run: Run) -> list[tuple[str, str]]:
    """Return facts about a run and its progress, as title and value."""
    config, training = run.config, run.training
    total = "" if run.total_steps is None else f" of {run.total_steps:,}"
    epoch = run.lines[-1].get("epoch") if run.lines else 0
    found = {"Steps": f"{run.step:,}{total}", "Epochs": f"{round(epoch, 2):g} of {config.epochs:,}"}
    found["Training"] = _duration(run.minutes)
    if run.state != "finished" and run.minutes_left is not None:
        found["Left, about"] = _duration(run.minutes_left)
    if training.images is not None:
        found["Images"] = f"{training.images:,}"
    found["Views seen"] = f"{run.step * config.batch_size * config.all_views:,}"
    found["Backbone"] = config.backbone
    if run.has_model:
        try:
            model = build_sketch(read_config(run.model_folder))
        except (ValueError, OSError) as error:
            logger.warning("%s", error)
        else:
            for part, module in model.named_children():
                count = sum(parameter.numel() for parameter in module.parameters())
                found[f"Parameters of the {part}"] = f"{count:,}"
            found["Width of the features"] = f"{model.num_features:,}"
    spec = LOSSES.get(config.loss)
    title = spec.title if spec else f"{config.loss}, of one's own"
    found["Loss"] = f"{title}, {config.projector_dim:,} wide"
    found["Data"] = f"{config.dataset}, {config.split}"
    memory = [line["memory_mb"] for line in run.lines if line.get("memory_mb") is not None]
    if memory:
        found["Memory at the most"] = f"{max(memory):,.0f} MB"
    if training.hardware is not None:
        found["Hardware"] = training.hardware
    if training.precision is not None:
        found["Precision"] = {"no": "fp32"}.get(training.precision, training.precision)
    if training.versions is not None:
        found["Versions"] = ", ".join(f"{k} {v}" for k, v in training.versions.items())
    return list(found.items())


def command(run: Run) -> str:
    """Return the command that starts the same run, or why there is none."""
    if any(map(is_object, (run.config.loss, run.config.preset, str(run.config.init)))):
        return "effssl.pretrain in Python, with the objects that it was given"
    flags = run.config.flags(without=("resume", "overwrite"))
    return shlex.join(["effssl", "pretrain", *flags])


def configuration(run: Run) -> list[tuple[str, str, str]]:
    """Return every field with its value and default."""
    return [
        (field.name, _value(getattr(run.config, field.name)), _value(field.default))
        for field in dataclasses.fields(run.config)
    ]


def evaluation(found: EvaluationRecord) -> dict:
    """Make the table of an evaluation: a row for each protocol, a column for each encoder."""
    encoders, rows = list(found.top1), []
    for measure, table in (("top-1", found.top1), ("top-5", found.top5)):
        names = dict.fromkeys(key for row in table.values() for key in row)
        for key in names:
            values = [table.get(encoder, {}).get(key) or [] for encoder in encoders]
            means = [statistics.mean(one) if one else None for one in values]
            best = max((mean for mean in means if mean is not None), default=None)
            texts = [found.cell(encoder, key, measure.replace("-", "")) for encoder in encoders]
            cells = [(text, mean == best) for text, mean in zip(texts, means, strict=True)]
            rows.append((key, measure, cells))
        if names:
            guesses = found.guesses(measure.replace("-", ""))
            rows += [
                (k, measure, [(f"{v:.1f}", False)] * len(encoders)) for k, v in guesses.items()
            ]
    lead = f"{found.test_images:,} images ({found.test_split})"
    if rows:
        lead = (
            f"Percent of {lead}; {found.train_images:,} labeled ones ({found.train_split}) "
            "vote and are fitted to. "
        )
        lead += f"Mean ± standard deviation of {found.of}."
    else:
        lead += ", without labels: see the spectrum above."
    baselines, differences = difference_rows(found)
    return {
        "title": found.dataset or "A data set that is not public",
        "lead": lead,
        "encoders": encoders,
        "rows": rows,
        "verdict": verdict(found),
        "baselines": baselines,
        "differences": differences,
        "protocols": protocol_notes(found),
    }


def lines(run: Run) -> tuple[list[str], list[list[str]]]:
    """Return the columns of metrics.jsonl, and some of its lines."""
    points = run.points(_LINES)
    names = [k for k in dict.fromkeys(k for line in points for k in line) if k != "spectrum"]
    return names, [[_number(line.get(name)) for name in names] for line in points]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def _value(value: object) -> str:
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))


def _duration(minutes: float) -> str:
    if minutes < 90:
        return f"{minutes:.1f} minutes"
    return f"{minutes / 60:.1f} hours"

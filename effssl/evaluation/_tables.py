"""Evaluations as plain-text tables."""

from __future__ import annotations

import math

from effssl.data.sources import Source
from effssl.evaluation.evaluate import Evaluation
from effssl.records import EvaluationRecord
from effssl.shown import plain

_MEASURES = {
    "width": "width",
    "alpha": "alpha",
    "rankme": "RankMe",
    "effective_rank": "effective rank",
    "lidar": "LiDAR",
    "std": "std of unit features",
    "alignment": "alignment",
    "uniformity": "uniformity",
}


def accuracy_table(record: EvaluationRecord) -> str:
    """Format top-1 and top-5 by protocol and encoder, mean ± deviation over seeds, and protocols.

    Args:
        record: An evaluation with labels.
    """
    lines = []
    for kind in ("top1", "top5"):
        if rows := record.rows(kind, digits=2):
            title = [f"top-{kind[-1]} in percent", *record.top1]
            lines += ["", *_aligned([title, *([name, *cells] for name, cells in rows)])]
    lines += ["", f"{record.train_images:,} labelled images of {record.train_split}"]
    lines += [f"{name}: {sentence}" for name, sentence in record.sentences()]
    return "\n".join(lines)


def spectrum_table(record: EvaluationRecord) -> str:
    """Format the label-free measures of features and projections, and how they were measured.

    Args:
        record: An evaluation with a spectrum.
    """
    spectra = record.spectrum
    rows = [
        [title, *(_number(found[key]) for found in spectra.values())]
        for key, title in _MEASURES.items()
    ]
    lines = ["", *_aligned([["without labels", *spectra], *rows])]
    for name, found in spectra.items():
        if fit := found["alpha_fit"]:
            lines.append(
                f"alpha of the {name}: ranks {fit['first']} to {fit['last']}, R2 {fit['r2']:.3f}"
            )
        else:
            lines.append(f"alpha of the {name}: none, too few eigenvalues are above rounding")
    first = next(iter(spectra.values()))
    precision = record.precision
    lines.append(
        f"{first['images']:,} images; LiDAR, alignment and uniformity: {first['views']} views of "
        f"{first['viewed_images']:,} images, preset {first['preset']}"
        + ("" if precision == "fp32" else f"; backbone in {precision} by autocast")
    )
    return "\n".join(lines)


def left_out_lines(record: EvaluationRecord) -> str:
    """Say how many images are left out, a line each for train and test; empty if none are."""
    return "\n".join(
        f"left out of {split}: "
        + ", ".join(f"{count:,} {what}" for what, count in counts.items())
        + (" images" if sum(counts.values()) != 1 else " image")
        for split, counts in record.left_out.items()
    )


def class_table(evaluation: Evaluation, train: Source) -> str:
    """Format top-1 in percent of every class by the pretrained model, with the first seed.

    Args:
        evaluation: Evaluation with labels.
        train: Training images, which may name the classes.
    """
    found = {key: values[0].per_class for key, values in evaluation.accuracy["pretrained"].items()}
    rows = [
        [plain(name, 80), *(_number(round(float(values[i]), 1)) for values in found.values())]
        for i, name in enumerate(_class_names(evaluation, train))
    ]
    return "\n".join(["", *_aligned([["class", *found], *rows])])


def details(evaluation: Evaluation, train: Source | None) -> dict:
    """Return results by class of the pretrained model, with the first seed.

    Args:
        evaluation: Evaluation by any protocols.
        train: Training images, which may name the classes; None without labels.

    Returns:
        ``class_names``; and by protocol ``per_class``, top-1 in percent, None for a class without
        test images, and ``confusion``, counts by class (row) and predicted class.
    """
    found = evaluation.accuracy.get("pretrained", {})
    return {
        "class_names": [] if train is None else _class_names(evaluation, train),
        "per_class": {
            key: [None if math.isnan(v) else round(v, 2) for v in values[0].per_class.tolist()]
            for key, values in found.items()
        },
        "confusion": {key: values[0].confusion.tolist() for key, values in found.items()},
    }


def _class_names(evaluation: Evaluation, train: Source) -> list[str]:
    names = train.class_names
    return [names[label] if names else str(label) for label in evaluation.labels]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def _number(value: float | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"

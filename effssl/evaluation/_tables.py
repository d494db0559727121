"""Evaluations as plain-text tables."""

from __future__ import annotations

import math

from effssl.data.sources import Source
from effssl.evaluation._difference import differences
from effssl.evaluation._notes import protocol_notes
from effssl.evaluation._verdict import difference_rows, verdict
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
    """Format top-1 and top-5 by protocol and encoder, what guessing gives, and protocols.

    Args:
        record: An evaluation with labels.
    """
    lines = []
    for kind in ("top1", "top5"):
        if rows := record.rows(kind, digits=2):
            title = [f"top-{kind[-1]} in percent", *record.top1]
            guesses = [
                [k, *[f"{v:.2f}"] * len(record.top1)] for k, v in record.guesses(kind).items()
            ]
            lines += ["", *_aligned([title, *([name, *cells] for name, cells in rows), *guesses])]
    lines += ["", f"{record.train_images:,} labeled images of {record.train_split}"]
    if any(len(values) > 1 for row in record.top1.values() for values in row.values()):
        lines[-1] += f"; mean ± standard deviation of {record.of}"
    lines += [f"{name}: {sentence}" for name, sentence in protocol_notes(record)]
    return "\n".join(lines)


def verdict_text(record: EvaluationRecord) -> str:
    """Format the differences to the baselines and the verdict; empty without labels.

    Args:
        record: An evaluation.
    """
    baselines, rows = difference_rows(record)
    lines = []
    if rows:
        title = ["pretrained minus", *baselines]
        lines += ["", *_aligned([title, *([name, *cells] for name, cells in rows)])]
    if said := verdict(record):
        lines += ["", *said]
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
    measured = {key: values[0] for key, values in evaluation.accuracy["pretrained"].items()}
    found = {key: value.per_class for key, value in measured.items()}
    first = next(iter(measured.values()))
    draws = 1 if first.episodes is None else len(first.episodes)
    images = (first.confusion.sum(1) // draws).tolist()
    rows = [
        [
            plain(name, 80),
            *(_number(round(float(values[i]), 1)) for values in found.values()),
            f"{images[i]:,}",
        ]
        for i, name in enumerate(class_names(evaluation, train))
    ]
    return "\n".join(["", *_aligned([["class", *found, "test images"], *rows])])


def all_numbers(
    evaluation: Evaluation, record: EvaluationRecord, train: Source | None, dataset: str
) -> dict:
    """Return all numbers for a file on this machine.

    Args:
        evaluation: Evaluation by any protocols.
        record: Its record, with what was measured earlier on the same images.
        train: Training images, which may name the classes; None without labels.
        dataset: Name of the data set as it was given, which may be a path.

    Returns:
        The record with that name; the verdict, a comparison for each protocol and baseline; top-1
        by guessing; and the `details` of the evaluation.
    """
    return (
        record.to_json()
        | {"dataset": dataset, "chance": record.guesses().get("chance")}
        | {"majority": record.majority}
        | {"verdict": [one.to_json() for one in differences(record)]}
        | {"verdict_in_words": verdict(record)}
        | details(evaluation, train)
    )


def details(evaluation: Evaluation, train: Source | None) -> dict:
    """Return results by class of the pretrained model, with the first seed.

    Args:
        evaluation: Evaluation by any protocols.
        train: Training images, which may name the classes; None without labels.

    Returns:
        ``class_names``; and by protocol ``per_class``, top-1 in percent, None for a class without
        test images, and ``confusion``, counts by class (row) and predicted class, summed over
        draws of labels; and ``episode_top1`` of every draw, by encoder, protocol and seed.
    """
    found = evaluation.accuracy.get("pretrained", {})
    return {
        "class_names": class_names(evaluation, train),
        "per_class": {
            key: [None if math.isnan(v) else round(v, 2) for v in values[0].per_class.tolist()]
            for key, values in found.items()
        },
        "confusion": {key: values[0].confusion.tolist() for key, values in found.items()},
        "episode_top1": {
            encoder: {
                key: [[round(v, 2) for v in value.episodes.tolist()] for value in values]
                for key, values in row.items()
                if values[0].episodes is not None
            }
            for encoder, row in evaluation.accuracy.items()
        },
    }


def class_names(evaluation: Evaluation, train: Source | None) -> list[str]:
    """Return the names of the classes of an evaluation, or their labels in train as text.

    Args:
        evaluation: Evaluation by any protocols.
        train: Training images, which may name the classes; None without labels.
    """
    names = None if train is None else train.class_names
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

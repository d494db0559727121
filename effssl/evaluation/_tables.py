"""An evaluation as tables of text."""

from __future__ import annotations

import math
import statistics

from effssl.data.sources import Source
from effssl.evaluation.evaluate import Evaluation

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


def accuracy_table(record: dict) -> str:
    """Top-1 and top-5 by protocol and encoder, mean ± deviation over seeds, and the protocols.

    Args:
        record: From `effssl.evaluation._record`.
    """
    lines = []
    for kind in ("top1", "top5"):
        rows = [
            [key, *(mean_and_spread(row.get(key), digits=2) for row in record[kind].values())]
            for key in record["protocols"]
            if any(key in row for row in record[kind].values())
        ]
        if rows:
            title = f"top-{kind[-1]} in percent"
            lines += ["", *_aligned([[title, *record[kind]], *rows])]
    lines += ["", f"{record['train_images']:,} labelled images of {record['train_split']}"]
    lines += [f"{name}: {sentence}" for name, sentence in protocol_sentences(record)]
    return "\n".join(lines)


def protocol_sentences(record: dict) -> list[tuple[str, str]]:
    """Name and protocol of every number, with its seeds.

    Args:
        record: From `effssl.evaluation._record`.
    """
    return [
        (name, f"{sentence}; seed {', '.join(map(str, record['seeds'][name]))}")
        for name, sentence in record["protocols"].items()
    ]


def mean_and_spread(values: list[float] | None, *, digits: int = 1) -> str:
    """Mean ± sample standard deviation, the mean of one value alone, or a dash for none."""
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def spectrum_table(record: dict) -> str:
    """What needs no labels, of features and projections, and how it was measured.

    Args:
        record: From `effssl.evaluation._record`.
    """
    spectra = record["spectrum"]
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
    lines.append(
        f"{first['images']:,} images; LiDAR, alignment and uniformity: {first['views']} views of "
        f"{first['viewed_images']:,} images, preset {first['preset']}"
        + (f"; backbone in {record['precision']} by autocast" if "precision" in record else "")
    )
    return "\n".join(lines)


def class_table(evaluation: Evaluation, test: Source) -> str:
    """Top-1 in percent of every class by the pretrained model, with the first seed.

    Args:
        evaluation: With labels.
        test: The images, which may have names of classes.
    """
    found = {key: values[0].per_class for key, values in evaluation.accuracy["pretrained"].items()}
    rows = [
        [name, *(_number(round(float(values[i]), 1)) for values in found.values())]
        for i, name in enumerate(_class_names(evaluation, test))
    ]
    return "\n".join(["", *_aligned([["class", *found], *rows])])


def details(evaluation: Evaluation, test: Source) -> dict:
    """What a file of numbers has beside `record`: of the pretrained model, with the first seed.

    Args:
        evaluation: Of any protocols.
        test: The images, which may have names of classes.

    Returns:
        ``class_names``, and by name of the number ``per_class``, top-1 in percent or None of a
        class without test images, and ``confusion``, counts by class (row) and given class.
    """
    found = evaluation.accuracy.get("pretrained", {})
    return {
        "class_names": _class_names(evaluation, test),
        "per_class": {
            key: [None if math.isnan(v) else round(v, 2) for v in values[0].per_class.tolist()]
            for key, values in found.items()
        },
        "confusion": {key: values[0].confusion.tolist() for key, values in found.items()},
    }


def _class_names(evaluation: Evaluation, test: Source) -> list[str]:
    kind = test.dataset.features[test.label_column] if test.label_column else None
    names = getattr(kind, "names", None)
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

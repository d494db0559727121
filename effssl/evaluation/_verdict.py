"""The verdict on a pretrained model in plain words: the same on terminal, card and report."""

from __future__ import annotations

from collections.abc import Sequence

from effssl.evaluation._difference import BASELINES, Difference, differences
from effssl.evaluation._notes import named
from effssl.evaluation.finetune import LEAST_STEPS
from effssl.records import EvaluationRecord

# parts of names in this order, whatever came out best
_HEADLINES = ("k-NN 20", "k-NN ", "linear", "10-shot linear", "-shot ", "fine-tuned ")


def verdict(record: EvaluationRecord) -> list[str]:
    """Say whether the pretrained features are better than the baselines, and by how much.

    Args:
        record: An evaluation with labels; of another there is nothing to say.

    Returns:
        Sentences: one for each baseline, then how it is decided, and what is missing.
    """
    found = differences(record)
    lines = [
        _sentence(baseline, [one for one in found if one.baseline == baseline])
        for baseline in BASELINES
        if any(one.baseline == baseline for one in found)
    ]
    return [*lines, *_how(record, found), *_missing(record), *too_few_steps(record)]


def difference_rows(record: EvaluationRecord) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the differences as a table: names of baselines, and a row for each protocol."""
    found = differences(record)
    baselines = [name for name in BASELINES if any(one.baseline == name for one in found)]
    cells = {(one.protocol, one.baseline): one.cell() for one in found}
    names = dict.fromkeys(one.protocol for one in found)
    return baselines, [(n, [cells.get((n, b), "–") for b in baselines]) for n in names]


def headline(record: EvaluationRecord, data: str | None = None) -> str | None:
    """Return half a sentence on how good the features are, by one protocol beside a baseline.

    The protocol is the first that there is of k-NN 20, k-NN of other k, linear, few labels (10-shot
    linear before others) and fine-tuning, so that none is chosen for its number. None if nothing
    was measured with labels.

    Args:
        record: An evaluation.
        data: Name of a data set that need not be named again.
    """
    means = record.means("pretrained")
    name = next((n for part in _HEADLINES for n in means if _is_named(n, part)), None)
    if name is None:
        return None
    images = f"{record.test_images:,} test images"
    if record.dataset not in (None, data):
        images += f" of {record.dataset}"
    how = name
    if name.startswith("fine-tuned "):
        how = f"{name.replace('fine-tuned', 'fine-tuning on')} of the labels"
    text = f"by {how} they classify {means[name]:.1f} % of {images} right"
    one = next((d for d in differences(record) if d.protocol == name), None)
    if one is None:
        return f"{text}; no baseline was measured beside them"
    theirs, baseline = record.means(one.baseline)[name], one.baseline
    result = {
        "better": f"better than {baseline} with {theirs:.1f} %",
        "worse": f"worse than {baseline} with {theirs:.1f} %",
        "undecided": f"and whether that is better than {baseline} with {theirs:.1f} % is undecided",
        "too few steps": f"{baseline} {theirs:.1f} %, after too few steps to conclude",
    }[one.decided]
    return f"{text}, {result}"


def not_better(record: EvaluationRecord) -> list[tuple[str, str]]:
    """Say where the features are worse than a baseline, or that it is undecided.

    Returns:
        ``worse`` or ``undecided``, and the sentence without a full stop.
    """
    found = differences(record)
    lines = []
    for baseline in BASELINES:
        for decided, text in (("worse", "are worse than"), ("undecided", "may be no better than")):
            names = [d.protocol for d in found if (d.baseline, d.decided) == (baseline, decided)]
            if names:
                lines.append(
                    (decided, f"By {named(names)} the pretrained features {text} {baseline}")
                )
    return lines


def too_few_steps(record: EvaluationRecord) -> list[str]:
    """Return a sentence on protocols of fine-tuning that took too few steps, if there are any."""
    ours = record.means("pretrained")
    short = {k: n for k, n in record.tuning_steps.items() if n < LEAST_STEPS and k in ours}
    if not short:
        return []
    which = ", ".join(f"{name}: {steps:,}" for name, steps in short.items())
    return [f"fewer than {LEAST_STEPS} steps of fine-tuning: too few to conclude ({which})"]


def _is_named(name: str, part: str) -> bool:
    return part in name if part.startswith("-") else name.startswith(part)


def _sentence(baseline: str, found: Sequence[Difference]) -> str:
    parts = {}
    for decided in ("better", "worse", "undecided"):
        if some := [one for one in found if one.decided == decided]:
            ends = min(one.points for one in some), max(one.points for one in some)
            span = " to ".join(dict.fromkeys(f"{points:+.1f}" for points in ends))
            parts[decided] = f"by {named(one.protocol for one in some)} ({span} points)"
    undecided = parts.pop("undecided", "after too few steps")
    if not parts:
        return (
            f"Whether the pretrained features are better than {baseline} is undecided {undecided}."
        )
    text = "; ".join(f"{decided} {how}" for decided, how in parts.items())
    if any(one.decided == "undecided" for one in found):
        text += f"; it is undecided {undecided}"
    return f"Against {baseline} the pretrained features are {text}."


def _how(record: EvaluationRecord, found: Sequence[Difference]) -> list[str]:
    if not found:
        return []
    paired = {one.paired for one in found}
    how = {
        frozenset({True}): "paired by image",
        frozenset({False}): "as two independent binomials",
    }.get(frozenset(paired), "paired by image where that is known")
    errors = [
        f"of the sampling of {record.test_images:,} test images "
        f"({how}: {_span([one.sampling for one in found])} points)"
    ]
    if drawn := [one.episodes for one in found if one.episodes]:
        errors.append(f"of the draws of labels ({_span(drawn)} points)")
    if any(one.seeds for one in found):
        seeds = [one.seeds for one in found]
        errors.append(f"of {record.of or 'seeds'} ({_span(seeds)} points)")
    *first, last = errors
    text = f"{', '.join(first)} and {last}" if first else last
    return [f"Decided by intervals of 95 %: {text}; undecided where the interval holds 0."]


def _span(values: Sequence[float]) -> str:
    return "± " + " to ".join(dict.fromkeys(f"{v:.1f}" for v in (min(values), max(values))))


def _missing(record: EvaluationRecord) -> list[str]:
    """Say which baselines were not measured; raw pixels have no weights to fine-tune."""
    ours = record.top1.get("pretrained", {})
    frozen = [name for name in ours if not name.startswith("fine-tuned")]
    missing = [
        name
        for name in BASELINES
        if not record.top1.get(name) and (frozen if name == "raw pixels" else ours)
    ]
    return [f"Not measured beside them: {' and '.join(missing)}."] if missing else []

"""The record of evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from effssl.evaluation._difference import BASELINES, episode_error, paired_error
from effssl.evaluation.evaluate import Evaluation, Invariance
from effssl.evaluation.spectrum import Spectrum
from effssl.records import EvaluationRecord
from effssl.shown import plain

_MOST_NAMES = 10_000  # of classes; training.json has a largest size


def record(
    evaluations: Sequence[Evaluation],
    *,
    dataset: str | None,
    train_split: str | None,
    test_split: str,
    of: str = "seeds",
    class_names: Sequence[str] = (),
) -> EvaluationRecord:
    """Make the record of evaluations that training.json keeps, and card and report show.

    Args:
        evaluations: One evaluation, or one for each of several trainings, by the same protocols;
            the spectrum is that of the first.
        dataset: Name of the dataset; None if it is not public.
        train_split: Split that votes and is fitted to; None if there is none.
        test_split: Split that everything is measured on.
        of: What the spread is taken over: ``seeds`` of the evaluation, or ``trainings``.
        class_names: Names of the classes, in order. They are kept and published with the linear
            probe, which is of no use without them; none are if there is no probe.
    """
    first = evaluations[0]
    tuned = [key for key in first.protocols if key.startswith("fine-tuned")]
    return EvaluationRecord(
        dataset=dataset,
        train_split=train_split,
        train_images=first.train_images,
        test_split=test_split,
        test_images=first.test_images,
        digest=first.digest,
        classes=len(first.labels),
        protocols=first.protocols,
        seeds={
            key: [s for e in evaluations for s in e.seeds[: 1 if key in tuned else None]]
            for key in first.protocols
        },
        of=of,
        top1=_percentages(evaluations, "top1"),
        top5=_percentages(evaluations, "top5"),
        spectrum={
            name: _spectrum(found, first.invariance[name]) for name, found in first.spectrum.items()
        },
        precision=first.precision,
        left_out=first.left_out,
        majority=None if first.majority is None else round(first.majority, 2),
        tuning_steps=first.tuning_steps,
        paired_errors=_paired_errors(evaluations),
        episodes={
            key: len(found[0].episodes)
            for row in first.accuracy.values()
            for key, found in row.items()
            if found[0].episodes is not None
        },
        episode_errors=_episode_errors(evaluations, list(first.accuracy), paired=False),
        paired_episode_errors=_episode_errors(evaluations, BASELINES, paired=True),
        class_names=_names(class_names) if first.probe is not None else [],
    )


def _names(names: Sequence[str]) -> list[str]:
    """Return names of classes as text, none if they are the numbers of the classes or too many."""
    if len(names) > _MOST_NAMES or list(names) == [str(i) for i in range(len(names))]:
        return []
    return [plain(name, 80) for name in names]


def _paired_errors(evaluations: Sequence[Evaluation]) -> dict[str, dict[str, float]]:
    """Return standard errors in points of the difference to each baseline, by protocol."""
    found: dict[str, dict[str, float]] = {}
    for baseline in BASELINES:
        for key in evaluations[0].accuracy.get(baseline, {}):
            ours, theirs = (
                [a.correct for e in evaluations for a in e.accuracy.get(name, {}).get(key, ())]
                for name in ("pretrained", baseline)
            )
            error = paired_error(ours, theirs) if ours and theirs else None
            if error is not None:
                found.setdefault(baseline, {})[key] = round(error, 3)
    return found


def _episode_errors(
    evaluations: Sequence[Evaluation], encoders: Sequence[str], *, paired: bool
) -> dict[str, dict[str, float]]:
    """Return standard errors in points over draws of labels, by encoder and protocol.

    Args:
        evaluations: Those of the record.
        encoders: Names of encoders.
        paired: Whether they are of the difference of the pretrained model to each.
    """

    def episodes(name: str, key: str) -> list[Tensor | None]:
        return [a.episodes for e in evaluations for a in e.accuracy.get(name, {}).get(key, ())]

    found: dict[str, dict[str, float]] = {}
    for name in encoders:
        for key in evaluations[0].accuracy.get(name, {}):
            both = [episodes(name, key)]
            if paired:
                both.append(episodes("pretrained", key))
            error = episode_error(*both) if all(both) else None
            if error is not None:
                found.setdefault(name, {})[key] = round(error, 4)
    return found


def _percentages(evaluations: Sequence[Evaluation], kind: str) -> dict[str, dict]:
    """Return percentages by encoder and protocol, without protocols for which one is undefined."""
    found = {
        name: {
            key: [getattr(a, kind) for e in evaluations for a in e.accuracy[name][key]]
            for key in row
        }
        for name, row in evaluations[0].accuracy.items()
    }
    return {
        name: {key: [round(v, 2) for v in vs] for key, vs in row.items() if None not in vs}
        for name, row in found.items()
    }


def _spectrum(spectrum: Spectrum, invariance: Invariance) -> dict[str, Any]:
    measures = {
        key: round(getattr(invariance, key), 3) for key in ("lidar", "alignment", "uniformity")
    }
    views = {
        "views": invariance.views,
        "preset": invariance.preset,
        "viewed_images": invariance.images,
    }
    return spectrum.record() | views | measures

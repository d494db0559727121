"""Evaluations in a model card: tables, the verdict, and what the linear probe is for."""

from __future__ import annotations

from collections.abc import Sequence

from effssl.evaluation._notes import protocol_notes
from effssl.evaluation._verdict import difference_rows, headline, not_better, verdict
from effssl.records import EvaluationRecord
from effssl.shown import plain

_NAMES, _CHARACTERS = 20, 400  # most names of classes in a card, and characters of them


def good_for(evaluations: Sequence[EvaluationRecord], data: str | None) -> str:
    """Return the sentence that a card begins with: what for, and how good beside raw pixels.

    Args:
        evaluations: Evaluations, the latest last.
        data: Name of the images that the model was trained on; None if it is not known.
    """
    images = f"images like those of {data}" if data else "images like those of its training"
    use = f"Features for {images}: to search, group and classify them with few labels"
    for found in reversed(evaluations):
        if said := headline(found, data):
            return f"{use}. {said[0].upper()}{said[1:]}."
    return f"{use}. How good they are was not measured with labels."


def data_name(dataset: str | None) -> str:
    """Return the name of a data set in a sentence."""
    return dataset or "a data set that is not published"


def evaluation_content(found: EvaluationRecord) -> dict:
    """Return the variables of an evaluation in the template."""
    lead = f"On {found.test_images:,} images of {data_name(found.dataset)} ({found.test_split})"
    if found.train_images:
        lead += (
            f"; {found.train_images:,} labeled images ({found.train_split}) vote and are "
            f"fitted to; mean ± standard deviation of {found.of}"
        )
    if found.of == "trainings" and any(found.seeds.values()):
        lead += (
            f"; the weights here are those of seed {next(filter(None, found.seeds.values()))[0]}"
        )
    encoders = list(found.top1)
    guesses = [(k, [f"{value:.1f}"] * len(encoders)) for k, value in found.guesses().items()]
    rows = found.rows()
    baselines, differences = difference_rows(found)
    return {
        "lead": lead,
        "encoders": encoders,
        "rows": rows + guesses if rows else [],
        "verdict": verdict(found),
        "baselines": baselines,
        "differences": differences,
        "protocols": protocol_notes(found),
        "spectrum": _spectrum(found.spectrum),
    }


def probe_content(evaluations: Sequence[EvaluationRecord]) -> dict | None:
    """Return the variables of the linear probe in the template; None if there is none."""
    for found in evaluations:
        if found.probe is not None:
            return {
                "data": data_name(found.dataset),
                "named": bool(found.class_names),
                "classes": _class_names(found.class_names),
            }
    return None


def limits_of(found: EvaluationRecord, *, named: bool) -> list[str]:
    """Return sentences on where the features are not better than a baseline.

    Args:
        found: Evaluation with labels.
        named: Whether the sentences name its images, as beside another evaluation.
    """
    images = f", on {found.test_images:,} images of {data_name(found.dataset)}" if named else ""
    return [f"{sentence}{images}." for _, sentence in not_better(found)]


def _class_names(names: Sequence[str]) -> str:
    """Return some names of classes, which may be of strangers, as code, which nothing ends."""
    shown: list[str] = []
    for name in names[:_NAMES]:
        text = plain(name, 80).replace("`", "'").strip()
        if sum(map(len, shown)) + len(text) > _CHARACTERS:
            break
        shown.append(f"`{text or '-'}`")
    rest = len(names) - len(shown)
    more = f" and {rest:,} more, which training.json names" if rest else ""
    return ", ".join(shown) + more


def _spectrum(spectra: dict) -> dict | None:
    """Return the table of label-free measures, and how they were measured."""
    if not spectra:
        return None
    first = next(iter(spectra.values()))
    measures = {
        "Width": "width",
        "alpha": "alpha",
        "RankMe": "rankme",
        "Effective rank": "effective_rank",
        "LiDAR": "lidar",
        "Alignment": "alignment",
        "Uniformity": "uniformity",
    }
    ranks = [
        f"{fit['first']} to {fit['last']} of the {name} (R² {fit['r2']})"
        for name, fit in ((name, s["alpha_fit"]) for name, s in spectra.items())
        if fit
    ]
    return {
        "of": list(spectra),
        "rows": [
            (title, ["–" if s[key] is None else f"{s[key]:,}" for s in spectra.values()])
            for title, key in measures.items()
        ],
        "how": f"Eigenvalues, ranks and alpha are of {first['images']:,} images"
        + (f", alpha of ranks {' and '.join(ranks)}" if ranks else "")
        + f"; LiDAR, alignment and uniformity of {first['views']} views of "
        f"{first['viewed_images']:,} images, preset {first['preset']}.",
    }

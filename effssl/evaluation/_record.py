"""What is kept of evaluations as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from effssl.evaluation.evaluate import Evaluation


def record(
    evaluations: Sequence[Evaluation],
    *,
    dataset: str | None,
    train_split: str | None,
    test_split: str,
    of: str = "seeds",
) -> dict:
    """What training.json keeps of evaluations by the same protocols, and card and report show.

    Args:
        evaluations: One, or one for each of several trainings; the spectrum is that of the first.
        dataset: Name of the data set; None if it is not public.
        train_split: Split that was voted with and fitted to; None if there was none.
        test_split: Split that everything was measured on.
        of: What the spread is of: ``seeds`` of the evaluation, or ``trainings``.
    """
    first = evaluations[0]
    tuned = [key for key in first.protocols if key.startswith("fine-tuned")]

    def values(kind: str) -> dict:
        found = {
            name: {
                key: [getattr(a, kind) for e in evaluations for a in e.accuracy[name][key]]
                for key in row
            }
            for name, row in first.accuracy.items()
        }
        return {
            name: {key: [round(v, 2) for v in vs] for key, vs in row.items() if None not in vs}
            for name, row in found.items()
        }

    return {
        "dataset": dataset,
        "train_split": train_split,
        "train_images": first.train_images,
        "test_split": test_split,
        "test_images": first.test_images,
        "digest": first.digest,
        "classes": len(first.labels),
        "protocols": first.protocols,
        "seeds": {
            key: [s for e in evaluations for s in e.seeds[: 1 if key in tuned else None]]
            for key in first.protocols
        },
        "of": of,
        "top1": values("top1"),
        "top5": values("top5"),
        "spectrum": {
            name: found.record()
            | {"views": first.invariance[name].views, "preset": first.invariance[name].preset}
            | {"viewed_images": first.invariance[name].images}
            | {
                key: round(getattr(first.invariance[name], key), 3)
                for key in ("lidar", "alignment", "uniformity")
            }
            for name, found in first.spectrum.items()
        },
    } | ({} if first.precision == "fp32" else {"precision": first.precision})

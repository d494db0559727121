"""Signs, seen without labels, that a run gives all images the same features."""

from __future__ import annotations

import torch
from torch import Tensor

from effssl.distributed import count_rows, gather_rows
from effssl.evaluation.spectrum import effective_rank, unit_std

_ROWS = 512  # images that are looked at; the cost grows with the cube
LEAST_STD = 0.05  # healthy runs stay above 0.4
LEAST_RANK = 0.02  # of what the batch and the width would let it be


def sample_rows(x: Tensor) -> Tensor:
    """Rows of all processes on the CPU, 512 at most; every process must call it.

    They are the same for any number of processes, but for batches of more than 512 images that
    pass in chunks, of which each number of processes sees others.

    Args:
        x: Features or projections of one view of this process's images, (n, F).
    """
    return _of_all_processes(x)[:_ROWS].float().cpu()


def collapse_signs(features: Tensor, projections: Tensor) -> dict[str, float]:
    """Spread and effective rank of what a batch became.

    Args:
        features: Features of one view of each image, (n, F), from `sample_rows`.
        projections: Their projections, (n, D).

    Returns:
        ``feature_std``, ``feature_rank``, ``projection_std``, ``projection_rank`` as `unit_std` and
        `effective_rank` define them.
    """
    signs = {}
    for name, x in {"feature": features, "projection": projections}.items():
        signs[f"{name}_std"] = round(unit_std(x), 4)
        signs[f"{name}_rank"] = round(effective_rank(x), 2)
    return signs


def collapse_alarm(signs: dict[str, float], rows: int, width: int) -> str | None:
    """What is wrong and what to change, in plain words; None if nothing is.

    Args:
        signs: What `collapse_signs` returned.
        rows: Images of the global batch.
        width: Of the projections.
    """
    advice = (
        "try a lower lr, a longer warm-up, a larger batch, or views that differ more (another "
        "preset); effssl views draws them"
    )
    if signs["feature_std"] < LEAST_STD or signs["projection_std"] < LEAST_STD:
        which = "feature" if signs["feature_std"] < LEAST_STD else "projection"
        return (
            f"collapse: every image gets nearly the same {which}s (std "
            f"{signs[which + '_std']:.2g}, 1 would be even): {advice}"
        )
    possible = min(rows - 1, width, _ROWS - 1)
    if possible > 3 and signs["projection_rank"] < max(1.5, LEAST_RANK * possible):
        return (
            f"dimensional collapse: the projections use {signs['projection_rank']:.1f} of "
            f"{possible} dimensions: {advice}"
        )
    return None


def _of_all_processes(x: Tensor) -> Tensor:
    counts = count_rows(len(x), x.device)
    if len(counts) == 1:
        return x
    padded = gather_rows(x.unsqueeze(0), max(counts))[0].split(max(counts))
    return torch.cat([part[:count] for part, count in zip(padded, counts, strict=True)])

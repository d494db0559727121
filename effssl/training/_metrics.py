"""Lines of metrics.jsonl, read back."""

from __future__ import annotations

import json
import math
from pathlib import Path

from effssl.atomic import write_text

METRICS = "metrics.jsonl"


def read_metrics(run_folder: Path) -> list[dict]:
    """Read the lines of a run's metrics.jsonl up to the first torn one; none without a file."""
    lines: list[dict] = []
    path = run_folder / METRICS
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
    return lines


def read_history(run_folder: Path, step: int, points: int = 200) -> dict[str, list]:
    """Read the columns of metrics.jsonl up to a step.

    Numbers have five digits. None stands for a missing or non-finite value. Spectra are left out,
    but the lines that have one are all included.

    Args:
        run_folder: Folder of the run.
        step: Last step to include.
        points: Number of evenly spaced lines.
    """
    lines = [x for x in read_metrics(run_folder) if x["step"] <= step]
    every = math.ceil(len(lines) / points)
    kept = [line for i, line in enumerate(lines, 1) if i % every == 0 or "spectrum" in line]
    names = dict.fromkeys(name for line in kept for name in line if name != "spectrum")
    return {name: [_short(line.get(name)) for line in kept] for name in names}


def cut_metrics(run_folder: Path, step: int) -> None:
    """Remove the lines of later steps and a torn last line, so that every step has one line."""
    path = run_folder / METRICS
    if not path.exists():
        return
    kept = [json.dumps(x) + "\n" for x in read_metrics(run_folder) if x["step"] <= step]
    write_text(path, "".join(kept))


def _short(value: float | None) -> float | None:
    return float(f"{value:.5g}") if isinstance(value, float) else value

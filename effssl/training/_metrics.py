"""Lines of metrics.jsonl, read back."""

from __future__ import annotations

import json
import math
from pathlib import Path

from effssl.atomic import write_text
from effssl.foreign import parse_json, read_bytes
from effssl.record_checks import check_metrics

METRICS = "metrics.jsonl"
_MOST_BYTES = 500_000_000


def read_metrics(run_folder: Path) -> list[dict]:
    """Read the lines of a run's metrics.jsonl up to the first torn one; none without a file.

    Raises:
        ValueError: If the file is not a regular one or too large, or a line holds anything but
            numbers and spectra.
    """
    path = run_folder / METRICS
    lines: list[dict] = []
    if not path.exists():
        return lines
    for number, line in enumerate(read_bytes(path, _MOST_BYTES).splitlines(), 1):
        try:
            lines.append(parse_json(line))
        except ValueError:
            break
        check_metrics(lines[-1], f"line {number} of {path}")
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

"""Checkpoints of a run, written whole or not at all."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

_STATE_FILE = "state.pt"


def save_checkpoint(run_folder: Path, step: int, state: dict) -> None:
    """Write ``checkpoints/step_*/`` under a temporary name, rename it, then delete older ones.

    Args:
        run_folder: Folder of the run.
        step: Steps that the state has behind it.
        state: Tensors, numbers, strings, and lists and dicts of them.
    """
    folder = run_folder / "checkpoints" / f"step_{step:08d}"
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with open(partial / _STATE_FILE, "wb") as file:
        torch.save({"step": step, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    for older in _checkpoints(run_folder)[:-1]:
        shutil.rmtree(older)


def load_checkpoint(run_folder: Path) -> dict | None:
    """The state of the newest checkpoint, on the CPU, or None if there is none."""
    folders = _checkpoints(run_folder)
    if not folders:
        return None
    logger.info("resuming from %s", folders[-1])
    # weights_only: tensors and plain containers, so nothing is unpickled that could run code
    return torch.load(folders[-1] / _STATE_FILE, map_location="cpu", weights_only=True)


def _checkpoints(run_folder: Path) -> list[Path]:
    folders = (run_folder / "checkpoints").glob("step_*")
    return sorted(folder for folder in folders if folder.suffix != ".partial")

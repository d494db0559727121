"""Checkpoints of a run, each written whole or not at all."""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

_STATE_FILE = "state.pt"


def save_checkpoint(run_folder: Path, step: int, state: dict, *, keep: int) -> Path:
    """Write ``checkpoints/step_*/`` and delete older checkpoints.

    Args:
        run_folder: Folder of the run.
        step: Number of steps done.
        state: State to save: tensors, numbers, strings, and lists and dicts of them.
        keep: Number of checkpoints to keep, this one included.

    Returns:
        Folder of the checkpoint.

    Raises:
        OSError: If it cannot be written; earlier checkpoints stay.
    """
    folder = run_folder / "checkpoints" / f"step_{step:08d}"
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with open(partial / _STATE_FILE, "wb") as file:
            torch.save({"step": step, **state}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        # torch hides the OSError behind a RuntimeError
        raise error if isinstance(error, OSError) else (error.__context__ or error) from None
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    folders = checkpoints(run_folder)
    # later checkpoints, if any, are torn: the run was resumed from before them
    kept = [f for f in folders if f <= folder][-keep:]
    for other in set(folders) - set(kept):
        shutil.rmtree(other)
    return folder


def load_checkpoint(run_folder: Path) -> dict | None:
    """Load the newest whole checkpoint to the CPU; return None if there is no checkpoint.

    Raises:
        ValueError: If there are checkpoints but none is whole.
    """
    folders = checkpoints(run_folder)
    for folder in reversed(folders):
        try:
            _check_sums(folder / _STATE_FILE)
            # weights_only: unpickling cannot run code
            state = torch.load(folder / _STATE_FILE, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001  a torn file can make the reader raise anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.warning("skipped %s, which is not whole: %s", folder, reason)
            continue
        logger.info("resuming from %s", folder)
        return state
    if folders:
        raise ValueError(
            f"none of the {len(folders)} checkpoints in {folders[0].parent} is whole: give "
            "--overwrite to start anew"
        )
    return None


def checkpoints(run_folder: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, torn ones included, the newest last."""
    folders = (run_folder / "checkpoints").glob("step_*")
    return sorted(folder for folder in folders if folder.suffix != ".partial")


def _check_sums(file: Path) -> None:
    # torch writes checksums but does not verify them when it reads
    with zipfile.ZipFile(file) as archive:
        torn = archive.testzip()
    if torn is not None:
        raise ValueError(f"{torn} has another checksum")

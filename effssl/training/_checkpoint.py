"""Checkpoints of a run, each written whole or not at all."""

from __future__ import annotations

import logging
import re
import shutil
import zipfile
from pathlib import Path

import torch

from effssl.atomic import replacing_folder
from effssl.hints import option

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Name of the folder of checkpoints in a run folder."""
_STATE_FILE = "state.pt"
_NAME = re.compile(r"step_[0-9]{8}")
# what killed runs left of a checkpoint, of this version and of earlier ones
_LEFT = re.compile(r"\.step_[0-9]{8}\.[0-9a-f]{8}\.(partial|earlier)|step_[0-9]{8}\.partial")


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
        OSError: If it cannot be written; earlier checkpoints stay. Or if an older one cannot be
            deleted.
    """
    folder = run_folder / CHECKPOINTS / f"step_{step:08d}"
    _delete(_own_folders(run_folder, _LEFT))  # a run folder has one writer at a time
    with replacing_folder(folder) as partial:
        try:
            with open(partial / _STATE_FILE, "wb") as file:
                torch.save({"step": step, **state}, file)
        except RuntimeError as error:  # torch hides the OSError behind it
            raise error.__context__ or error from None
    folders = checkpoints(run_folder)
    # later checkpoints, if any, are torn: the run was resumed from before them
    kept = [f for f in folders if f <= folder][-keep:]
    _delete([other for other in folders if other not in kept])
    return folder


def delete_checkpoints(run_folder: Path) -> None:
    """Delete all checkpoints and what killed runs left of some, the newest first.

    Raises:
        OSError: If one cannot be deleted.
    """
    _delete([*_own_folders(run_folder, _LEFT), *reversed(checkpoints(run_folder))])


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
            f"{option('overwrite')} to start anew"
        )
    return None


def checkpoints(run_folder: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, torn ones included, the newest last.

    Links, and what has a name that `save_checkpoint` does not give, are no checkpoints.
    """
    return _own_folders(run_folder, _NAME)


def _own_folders(run_folder: Path, name: re.Pattern) -> list[Path]:
    """Return the real folders beside the checkpoints that have such a name, in order."""
    found = (run_folder / CHECKPOINTS).glob("*")
    own = (f for f in found if name.fullmatch(f.name) and f.is_dir() and not f.is_symlink())
    return sorted(own)


def _delete(folders: list[Path]) -> None:
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise OSError(f"cannot delete {folder}: {error}") from error


def _check_sums(file: Path) -> None:
    # torch writes checksums but does not verify them when it reads
    with zipfile.ZipFile(file) as archive:
        torn = archive.testzip()
    if torn is not None:
        raise ValueError(f"{torn} has another checksum")

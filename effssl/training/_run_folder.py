"""Folder of a run: config.json, images.json, start.json if it goes on from weights, metrics.jsonl,
checkpoints, and the model folder.

Only what a run itself has written is replaced or deleted, and nothing behind a link is.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from effssl.atomic import PARTIAL, write_json
from effssl.background import BACKGROUND
from effssl.distributed import gather_objects
from effssl.foreign import read_json
from effssl.hints import option
from effssl.hub._folder import MODEL_FILES, is_model_folder
from effssl.shown import shown
from effssl.training._agreement import together
from effssl.training._checkpoint import CHECKPOINTS, delete_checkpoints, load_checkpoint
from effssl.training._fields import names_where
from effssl.training._metrics import METRICS
from effssl.training._run_images import check_images, has_images, save_images
from effssl.training._run_lock import LOCK, locked_run
from effssl.training.config import BEFORE, PretrainConfig

if TYPE_CHECKING:
    from effssl.data._fingerprint import Fingerprint

logger = logging.getLogger(__name__)

MODEL = "model"
"""Name of the model folder in a run folder."""
START = "start.json"
"""Name of the file that says what a run went on from; see `effssl.training._start`."""


@contextmanager
def held_run_folder(config: PretrainConfig, *, is_main_process: bool) -> Iterator[PretrainConfig]:
    """Lock the run folder in the main process, and check it, without changing what is in it.

    Every process must enter it, and all fail if the folder cannot be had.

    Yields:
        The configuration, with what the run in the folder settled for itself; see
        `check_run_folder`.

    Raises:
        FileExistsError: If the folder holds a run and neither resume nor overwrite is set, or if
            it holds something other than a run.
        BlockingIOError: If another process writes to it.
        ValueError: If the run in it has another configuration and cannot be resumed with this one,
            and in the other processes.
    """
    folder, settled = config.run_folder, {}
    with ExitStack() as stack:
        with together():
            if is_main_process:
                _check_place(folder)  # a lock is put into no other folder
                stack.enter_context(locked_run(folder))
                checked = check_run_folder(config)
                names = ("backbone", "value_range", "background")
                settled = {name: getattr(checked, name) for name in names}
        yield dataclasses.replace(config, **gather_objects(settled)[0])


def _check_place(folder: Path) -> None:
    """Check that a folder is a run folder, or can become one."""
    place = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not place.is_dir():
        what = "a file" if place.exists() else "a link to nothing"
        raise FileExistsError(f"{option('output')} {folder}: {place} is {what}: choose another")
    if place != folder or _is_empty(folder):
        return
    try:
        before = read_json(folder / "config.json")
    except (FileNotFoundError, ValueError):
        before = {}
    if not {"backbone", "projector_dim", "views"} <= before.keys():
        raise FileExistsError(
            f"{folder} exists and is not a run folder: choose another {option('output')}"
        )
    for name in (CHECKPOINTS, MODEL):
        inner = folder / name
        if inner.is_symlink():
            raise FileExistsError(
                f"{inner} is a link, and a run writes to real folders only: put the folder in its "
                f"place, or move all of {folder} and make that a link"
            )
        if os.path.lexists(inner) and not inner.is_dir():
            raise FileExistsError(
                f"{inner} is not a folder: move it, or choose another {option('output')}"
            )


def _is_empty(folder: Path) -> bool:
    # what a kill leaves of a first config.json does not count, nor does the lock
    return not folder.exists() or all(
        path.suffix == PARTIAL or path.name == LOCK for path in folder.iterdir()
    )


def check_run_folder(config: PretrainConfig) -> PretrainConfig:
    """Check that the run may write to its folder, without changing anything.

    Returns:
        The configuration, with the value range of the run in the folder in place of ``auto``, and
        with the background that it had before there was a choice, and its backbone if none is
        given.

    Raises:
        FileExistsError: If the folder holds a run and neither resume nor overwrite is set, or if
            it holds something other than a run.
        ValueError: If the run in it has another configuration and cannot be resumed with this one.
    """
    folder = config.run_folder
    _check_place(folder)
    if _is_empty(folder):
        return config
    before = read_json(folder / "config.json")
    if config.overwrite:
        _check_model_folder(folder / MODEL)
        return config
    if not config.resume:
        raise FileExistsError(
            f"{folder} holds a run: give {option('resume')} to go on, {option('overwrite')} to "
            f"delete it, or another {option('output')}"
        )
    model = folder / MODEL
    if model.exists() and any(model.iterdir()) and not is_model_folder(model):
        raise FileExistsError(f"{model} is not a whole model folder: move it, and it is made anew")
    if config.value_range == "auto" and isinstance(before.get("value_range"), list):
        config = dataclasses.replace(config, value_range=before["value_range"])
    if "background" not in before and config.background == BACKGROUND:
        config = dataclasses.replace(config, background=BEFORE["background"])
        logger.info("resuming a run of a version that dropped transparency: so does the rest of it")
    if config.backbone is None and isinstance(before.get("backbone"), str):  # that of init
        config = dataclasses.replace(config, backbone=before["backbone"])
    now = json.loads(json.dumps(config.values()))
    # a field that did not exist yet had the effect of its default
    before = json.loads(json.dumps(PretrainConfig().values())) | BEFORE | before
    free = names_where(config, "on_resume", "free")
    if has_images(folder):
        free.add("dataset")  # what counts is the images, which `open_run_folder` compares
    changed = [k for k in now if k not in free and before.get(k) != now[k]]
    was = ", ".join(f"{option(k)} was {before.get(k)!r}, is {now[k]!r}" for k in changed)
    if set(changed) & names_where(config, "on_resume", "keep"):
        raise ValueError(f"cannot resume {folder} with another configuration: {was}")
    if changed:
        logger.warning("resuming with another configuration: %s", was)
    return config


def _check_model_folder(folder: Path) -> None:
    """Check that a model folder can be deleted, since a run wrote all that is in it."""
    others = sorted(path.name for path in folder.glob("*") if path.name not in MODEL_FILES)
    if others:
        raise FileExistsError(
            f"{folder} holds {shown(others[0])[1:-1]}, which no run has written and "
            f"{option('overwrite')} does not delete: move it, or choose another {option('output')}"
        )


def open_run_folder(
    config: PretrainConfig, images: Fingerprint, start: dict | None = None
) -> dict | None:
    """Create the folder, or load the newest checkpoint of the run in it.

    An earlier run is deleted if the configuration says so.

    Args:
        config: Configuration that passed `check_run_folder`.
        images: Images of this launch.
        start: What start.json gets to say of the weights that the run goes on from; nothing is
            written if None.

    Returns:
        The state that was saved, if there is one.

    Raises:
        ValueError: If the run was trained on other images, or none of its checkpoints is whole.
        OSError: If the folder cannot be written.
    """
    saved = load_checkpoint(config.run_folder) if config.resume else None
    check_images(config, images, 0 if saved is None else saved["step"])
    _prepare(config, images, start)
    return saved


def _prepare(config: PretrainConfig, images: Fingerprint, start: dict | None) -> None:
    folder = config.run_folder
    if config.overwrite:
        _delete_run(folder)
    stop = config.stop_when_disk_full or not (folder / "config.json").exists()
    with tolerate_disk_full("config.json", folder, stop=stop):
        config.save(folder / "config.json")
        save_images(config, images)
        if start is not None:
            write_json(folder / START, start)


def _delete_run(folder: Path) -> None:
    """Delete what would be mixed with a new run; config.json, which is replaced, tells of a run."""
    delete_checkpoints(folder)
    for name in (METRICS, START):
        (folder / name).unlink(missing_ok=True)
    if (folder / MODEL).exists():
        shutil.rmtree(folder / MODEL)


@contextmanager
def tolerate_disk_full(what: str, run_folder: Path, *, stop: bool) -> Iterator[None]:
    """Let a run continue if something cannot be written, and log the error.

    Args:
        what: Name of what is written, for the message.
        run_folder: Folder that it is written to, for the message.
        stop: Raise the error instead.

    Raises:
        OSError: If it cannot be written and ``stop`` is set.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if stop:
            raise OSError(
                f"cannot write {what} to {run_folder}: {reason}; what was there before is whole: "
                f"make room and give {option('resume')}"
            ) from error
        logger.error(
            "cannot write %s to %s: %s; training goes on and the next one will be tried",
            what,
            run_folder,
            reason,
        )

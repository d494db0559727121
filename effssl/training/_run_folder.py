"""Folder of a run: config.json, images.json, metrics.jsonl, checkpoints, and the model folder."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from effssl.atomic import PARTIAL
from effssl.foreign import read_json
from effssl.training._checkpoint import load_checkpoint
from effssl.training._fields import names_where
from effssl.training._run_images import check_images, has_images, save_images
from effssl.training.config import PretrainConfig

if TYPE_CHECKING:
    from effssl.data._fingerprint import Fingerprint

logger = logging.getLogger(__name__)


def check_run_folder(config: PretrainConfig) -> PretrainConfig:
    """Check that the run may write to its folder, without changing anything.

    Returns:
        The configuration, with the value range of the run in the folder in place of ``auto``.

    Raises:
        FileExistsError: If the folder holds a run and neither resume nor overwrite is set, or if
            it holds something other than a run.
        ValueError: If the run in it has another configuration and cannot be resumed with this one.
    """
    folder = config.run_folder
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"output {folder} is a file: choose a folder")
    # what a kill leaves of a first config.json does not count
    if not folder.exists() or all(path.suffix == PARTIAL for path in folder.iterdir()):
        return config
    try:
        before = read_json(folder / "config.json")
    except (FileNotFoundError, ValueError):
        before = None
    if before is None or not {"backbone", "projector_dim", "views"} <= before.keys():
        raise FileExistsError(f"{folder} exists and is not a run folder: choose another output")
    if config.overwrite:
        return config
    if not config.resume:
        raise FileExistsError(
            f"{folder} holds a run: give --resume to go on, --overwrite to delete it, or another "
            "--output"
        )
    if config.value_range == "auto" and isinstance(before.get("value_range"), list):
        config = dataclasses.replace(config, value_range=before["value_range"])
    now = json.loads(json.dumps(config.values()))
    # a field that did not exist yet had the effect of its default
    before = {f.name: f.default for f in dataclasses.fields(PretrainConfig)} | before
    free = names_where(config, "on_resume", "free")
    if has_images(folder):
        free.add("dataset")  # what counts is the images, which `open_run_folder` compares
    changed = [k for k in now if k not in free and before.get(k) != now[k]]
    was = ", ".join(f"{k} was {before.get(k)!r}, is {now[k]!r}" for k in changed)
    if set(changed) & names_where(config, "on_resume", "keep"):
        raise ValueError(f"cannot resume {folder} with another configuration: {was}")
    if changed:
        logger.warning("resuming with another configuration: %s", was)
    return config


def open_run_folder(config: PretrainConfig, images: Fingerprint) -> dict | None:
    """Create the folder, or load the newest checkpoint of the run in it.

    An earlier run is deleted if the configuration says so.

    Args:
        config: Configuration that passed `check_run_folder`.
        images: Images of this launch.

    Returns:
        The state that was saved, if there is one.

    Raises:
        ValueError: If the run was trained on other images, or none of its checkpoints is whole.
        OSError: If the folder cannot be written.
    """
    saved = None if config.overwrite else load_checkpoint(config.run_folder)
    check_images(config, images, 0 if saved is None else saved["step"])
    _prepare(config, images)
    return saved


def _prepare(config: PretrainConfig, images: Fingerprint) -> None:
    folder = config.run_folder
    if config.overwrite:
        for name in ("checkpoints", "model"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    stop = config.stop_when_disk_full or not (folder / "config.json").exists()
    with tolerate_disk_full("config.json", folder, stop=stop):
        config.save(folder / "config.json")
        save_images(config, images)


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
                "make room and give --resume"
            ) from error
        logger.error(
            "cannot write %s to %s: %s; training goes on and the next one will be tried",
            what,
            run_folder,
            reason,
        )

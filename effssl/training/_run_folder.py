"""The folder of a run: config.json, metrics.jsonl, checkpoints, and the model folder."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from effssl.training.config import PretrainConfig

logger = logging.getLogger(__name__)

# these may change between a stop and the resume: what the weights do not depend on,
_OF_A_LAUNCH = set(
    "output resume overwrite cpu workers cache_gb log_every tracker label_column evaluate_every "
    "max_minutes deterministic checkpoint_steps checkpoint_minutes keep_checkpoints "
    "stop_when_disk_full timeout_minutes".split()
)
# and what prolongs or mends a run, which then is not that of its configuration alone
_MENDING = set("epochs max_steps lr grad_clip precision micro_batch compile".split())


def check_run_folder(config: PretrainConfig) -> None:
    """Check that the run may write to its folder, before anything is changed there.

    Raises:
        FileExistsError: If it holds a run and neither resume nor overwrite is set, or anything
            else.
        ValueError: If it holds a run of another configuration, which cannot be resumed.
    """
    folder = config.run_folder
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"output {folder} is a file: choose a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return
    now = dataclasses.asdict(config)
    try:
        before = json.loads((folder / "config.json").read_text())
    except (FileNotFoundError, ValueError):
        before = None
    if not isinstance(before, dict) or not {"backbone", "projector_dim", "views"} <= before.keys():
        raise FileExistsError(f"{folder} exists and is not a run folder: choose another output")
    if config.overwrite:
        return
    if not config.resume:
        raise FileExistsError(
            f"{folder} holds a run: give --resume to go on, --overwrite to delete it, or another "
            "--output"
        )
    # fields that came later had the effect of their defaults
    before = {f.name: f.default for f in dataclasses.fields(PretrainConfig)} | before
    changed = {k for k in now if k not in _OF_A_LAUNCH and before.get(k) != now[k]}
    was = ", ".join(f"{k} was {before.get(k)!r}, is {now[k]!r}" for k in now if k in changed)
    if changed - _MENDING:
        raise ValueError(f"cannot resume {folder} with another configuration: {was}")
    if changed:
        logger.warning("resuming with another configuration: %s", was)


def prepare_run_folder(config: PretrainConfig) -> None:
    """Make the folder, emptied of an earlier run if asked for, and write its config.json."""
    folder = config.run_folder
    if config.overwrite:
        for name in ("checkpoints", "model"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tolerate_disk_full(config, "config.json", last=not (folder / "config.json").exists()):
        config.save(folder / "config.json")


@contextmanager
def tolerate_disk_full(config: PretrainConfig, what: str, *, last: bool) -> Iterator[None]:
    """Let a run go on where something cannot be written; what was there before stays.

    Args:
        config: Says whether to stop instead.
        what: What is written, for the message.
        last: Whether there will be no later chance to write it.

    Raises:
        OSError: If the configuration says so, or it was the last chance.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if config.stop_when_disk_full or last:
            raise OSError(
                f"cannot write {what} to {config.run_folder}: {reason}; what was there before is "
                "whole: make room and give --resume"
            ) from error
        logger.error(
            "cannot write %s to %s: %s; training goes on and the next one will be tried",
            *(what, config.run_folder, reason),
        )

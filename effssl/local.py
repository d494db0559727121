"""Names of models and data sets that lead to files of this machine, or that should.

A name with one slash may be a path or an id on the Hub. It is taken for a path if its first folder
is here, so that a misspelled path ends at once and not after a minute of tries to reach the Hub.
This module imports no torch, so that a command can check names first.
"""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from effssl.atomic import wait_for_folder
from effssl.hints import did_you_mean, nearest

SAMPLE = "fashion-mnist-sample"
MOVED_SAMPLE = "fashion-mnist-moved-sample"
SAMPLES = (SAMPLE, MOVED_SAMPLE)
"""Names of the data sets in the package."""
HUB_DATASET = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_MODEL = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)
_OF_A_RUN = ("checkpoints", "images.json", "metrics.jsonl")  # beside its config.json
PACKAGED = {
    file.parent.name: file.parent
    for file in (Path(__file__).parent / "pretrained").glob("*/config.json")
}
"""Folders of the models in the package, by their names."""


_TRIES = 3  # a folder that is renewed meanwhile has no name for a moment


def check_model_name(name: str) -> None:
    """Check that a model is here, or can be looked for on the Hub.

    Args:
        name: As `effssl.from_pretrained` takes it.

    Raises:
        FileNotFoundError: If it is a path that leads to no folder, or to one without a model.
    """
    for left in reversed(range(_TRIES)):
        try:
            return _check_model_name(name)
        except FileNotFoundError:
            if not left:
                raise


def _check_model_name(name: str) -> None:
    kind, _, rest = name.partition(":")
    if kind == "hf-hub":
        return
    folder = Path(rest if kind == "local-dir" else name)
    for place in (folder, folder / "model"):
        wait_for_folder(place)
    if name and folder.is_dir():
        _check_model_folder(folder)
        return
    if name in PACKAGED:
        return
    if kind == "local-dir":
        raise _no_folder(rest)
    is_id = HUB_MODEL.fullmatch(name) is not None
    if _looks_like_path(name):
        raise _no_folder(name, is_id=is_id)
    if not is_id:
        hint = did_you_mean(name, PACKAGED)
        raise FileNotFoundError(
            f"no model folder {name!r}{nearest(name)}; {hint}a repository on the Hub is "
            f"owner/name, and the package has {' and '.join(PACKAGED) or 'no model'}"
        )


def check_dataset_name(name: str) -> None:
    """Check that a data set is here, or can be looked for on the Hub.

    Args:
        name: As `effssl.data.load_source` takes it. A pattern may match nothing.

    Raises:
        FileNotFoundError: If it is a path that leads to nothing.
    """
    if name in SAMPLES or glob.has_magic(name):
        return
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:  # no such user
        raise FileNotFoundError(f"no data set at {name!r}: {error}") from error
    is_id, is_beside = HUB_DATASET.fullmatch(name) is not None, _is_beside_others(name)
    if path.exists() or (is_id and not is_beside):
        return
    near, sample = nearest(name), did_you_mean(name, SAMPLES)
    hint = near
    if "/" not in name and not name.startswith("~") and (sample or not near):
        there = f"a Hub id is owner/name, and the package has {' and '.join(SAMPLES)}"
        hint = f"{near}; {sample}{there}"
    if is_id and not near:
        hint = (
            "; for the data set of that id on the Hub, start where no folder is called "
            f"{name.partition('/')[0]}"
        )
    raise FileNotFoundError(
        f"no data set at {name!r}: there is no such file or folder{_where(name)}{hint}"
    )


def check_run_folder_name(folder: str | Path) -> None:
    """Raise FileNotFoundError if there is no folder of that name."""
    if not Path(folder).is_dir():
        what = "is a file" if Path(folder).exists() else f"does not exist{nearest(folder)}"
        raise FileNotFoundError(f"run folder {folder} {what}: give the --output of effssl pretrain")


def _no_folder(name: str, *, is_id: bool = False) -> FileNotFoundError:
    if Path(name).is_file():
        return FileNotFoundError(f"{name} is a file: give the model folder that holds it")
    hub = f"; 'hf-hub:{name}' is the repository on the Hub" if is_id else ""
    return FileNotFoundError(f"no model folder {name!r}{_where(name)}{nearest(name) or hub}")


def _check_model_folder(folder: Path) -> None:
    if (folder / "model" / "config.json").is_file():
        return
    if any((folder / name).exists() for name in _OF_A_RUN):
        raise FileNotFoundError(
            f"the run in {str(folder)!r} has written no model yet: it does at the end of an epoch"
        )
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no config.json in {str(folder)!r}: not a model folder")


def _looks_like_path(name: str) -> bool:
    return (
        name[:1] in ("", ".", "~", os.sep)
        or os.path.exists(name)
        or name.startswith("runs/")  # where runs go by default
        or _is_beside_others(name)
    )


def _is_beside_others(name: str) -> bool:
    """Return whether the first folder of a name is here."""
    folder = name.partition("/")[0]
    return folder not in ("", name) and os.path.isdir(folder)


def _where(name: str) -> str:
    return "" if os.path.isabs(name) or name.startswith("~") else f" in {Path.cwd()}"

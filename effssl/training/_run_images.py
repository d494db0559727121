"""The images that a run was trained on: where they lay, and whether they are still the same."""

from __future__ import annotations

import dataclasses
import glob
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from effssl.atomic import write_json
from effssl.foreign import read_json
from effssl.hints import option
from effssl.local import SAMPLES
from effssl.training.config import PretrainConfig

if TYPE_CHECKING:
    from effssl.data._fingerprint import Fingerprint

logger = logging.getLogger(__name__)

IMAGES = "images.json"
"""Name of the file in a run folder; it is not published, since it holds paths of this machine."""


def save_images(config: PretrainConfig, images: Fingerprint) -> None:
    """Write what a later launch compares its images with.

    Raises:
        OSError: If it cannot be written.
    """
    known = dataclasses.asdict(images) | {"path": place_of(config.values()["dataset"])}
    write_json(config.run_folder / IMAGES, known)


def has_images(run_folder: Path) -> bool:
    """Return whether a run knows its images; those of earlier versions do not."""
    return bool(_read(run_folder))


def check_images(config: PretrainConfig, images: Fingerprint, step: int) -> None:
    """Compare the images of a run that is resumed with those that it was trained on.

    Another name for the same images is logged, and a warning tells of other images under the same
    name.

    Args:
        config: Configuration of this launch.
        images: Images of this launch.
        step: Number of steps done.

    Raises:
        ValueError: If other images have another name.
    """
    from effssl.data._fingerprint import Fingerprint

    known = _read(config.run_folder)
    if config.overwrite or not known:
        return
    before = Fingerprint(*(known.get(f.name) for f in dataclasses.fields(Fingerprint)))
    was = read_json(config.run_folder / "config.json").get("dataset")
    name = config.values()["dataset"]
    renamed, change = was != name, before.differs(images)
    names = f"{option('dataset')} was {was!r}, is {name!r}"
    if change is None:
        if renamed:
            compared = "number of images" if images.names is None else "images"
            logger.info("resuming with the same %s under another name: %s", compared, names)
    elif renamed:
        raise ValueError(
            f"cannot resume {config.run_folder} with other images: {names}: {change}; give the "
            f"data set that it was trained on, or another {option('output')}"
        )
    else:
        epochs = _epochs(step, before.images, images.images, config.batch_size)
        logger.warning("resuming though the data set %r changed: %s%s", was, change, epochs)


def _epochs(step: int, before: int, now: int, batch_size: int) -> str:
    """Return in words what a change of the number of images does to the counter of epochs."""
    was, new = (step / (images // batch_size) for images in (before, now))
    if was == new:
        return ""
    return f"; step {step} was {_place(was)} and is now {_place(new)}"


def _place(epoch: float) -> str:
    return f"the end of epoch {epoch:.0f}" if epoch == int(epoch) else f"in epoch {epoch:.1f}"


def find_dataset(run_folder: Path, config: PretrainConfig) -> str:
    """Return the data set of a run as it can be named from the current folder.

    A relative path is looked up where the run was started: in the folder that contains the run
    folder as ``output`` names it, else at the absolute path that the run noted.

    Returns:
        The name in the configuration if it is no path, leads to the same from here, or nothing is
        found.
    """
    name, noted = config.dataset, _read(run_folder).get("path")
    path = Path(name).expanduser()
    if path.is_absolute():
        return name
    start = _start(run_folder, config.run_folder)
    for found in (start and str(start / path), noted):
        if found is not None and is_here(found):
            return name if os.path.abspath(path) == found else found
    return noted or name


def _start(run_folder: Path, output: Path) -> Path | None:
    """Return the folder in which a run was started, if its ``output`` tells."""
    here, parts = Path(os.path.abspath(run_folder)), output.parts
    if output.is_absolute() or here.parts[-len(parts) :] != parts:
        return None
    return Path(*here.parts[: -len(parts)])


def place_of(dataset: object) -> str | None:
    """Return the absolute path or pattern of a data set, or None if it is none of this machine."""
    if not isinstance(dataset, str) or not is_here(dataset):
        return None
    return os.path.abspath(Path(dataset).expanduser())


def is_here(dataset: str) -> bool:
    """Return whether a data set is a path or pattern of this machine that leads to something."""
    path = Path(dataset).expanduser()
    if dataset in SAMPLES:  # whatever lies here under that name
        return False
    return path.exists() or (glob.has_magic(dataset) and any(glob.iglob(str(path))))


def _read(run_folder: Path) -> dict:
    try:
        known = read_json(run_folder / IMAGES)
    except (OSError, ValueError):
        return {}
    return known if isinstance(known.get("images"), int) else {}

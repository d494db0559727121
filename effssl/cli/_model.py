"""What several subcommands need: the model that a name stands for, and where its images are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from effssl.local import check_dataset_name, check_model_name
from effssl.progress import Stage
from effssl.training.config import IN_MEMORY, PretrainConfig, ValueRange

if TYPE_CHECKING:
    from effssl.model import SSLModel

Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""Precision of a trained backbone; the same in `effssl.evaluation`, which imports torch."""


def load_model(
    model: str, revision: str | None, cpu: bool
) -> tuple[Path, SSLModel, dict[str, Any]]:
    """Load a model to the device to compute on.

    Args:
        model: Model folder, run folder, repository on the Hub, or name in the package.
        revision: Branch, tag or commit of the repository.
        cpu: Compute on the CPU even where there is a GPU.

    Returns:
        The model folder, the model, and the configuration of its pretraining.
    """
    with Stage(f"load {model}"):
        from effssl.data.sources import is_public
        from effssl.distributed import join
        from effssl.hub._folder import read_training
        from effssl.hub.pull import find_model, from_pretrained
        from effssl.training._run_images import find_dataset

        folder = find_model(model, revision)
        encoder = from_pretrained(folder).to(join(cpu=cpu))
    # a run folder knows where the images of this machine are, a published folder does not
    if (run := _run_of(folder)) is not None:
        config = PretrainConfig.load(run)
        dataset = find_dataset(run.parent, config)
        return folder, encoder, config.values() | {"dataset": dataset}
    trained = dict.fromkeys(("dataset", "image_column")) | read_training(folder).get("config", {})
    # anybody may have written it: it must not name files of this machine
    if not isinstance(trained["dataset"], str) or not is_public(trained["dataset"]):
        trained["dataset"] = None
    return folder, encoder, trained


def baselines_file(folder: Path) -> Path:
    """Return the file that keeps the results of baselines: beside a run, else in the cache.

    A model folder does not hold it, since that is published.

    Args:
        folder: Model folder.
    """
    from effssl.data._cache_list import BASELINES, cache_folder

    if _run_of(folder) is not None:
        return folder.parent / BASELINES
    return cache_folder() / BASELINES


def _run_of(folder: Path) -> Path | None:
    """Return config.json of the run that a model folder belongs to, if it does."""
    config = folder.parent / "config.json"
    return config if folder.name == "model" and config.is_file() else None


def images_of(
    model: str, trained: dict[str, Any], dataset: str | None, image_column: str | None
) -> tuple[str, str | None]:
    """Return the data set and its column of images: those given, else those trained on.

    Raises:
        ValueError: If no data set is given and the model does not name a public one.
        FileNotFoundError: If none is given and the one trained on is not there.
    """
    from effssl.data.sources import is_public
    from effssl.training._run_images import is_here

    if dataset is not None:
        return dataset, image_column
    name = trained["dataset"]
    if name is None:
        raise ValueError(f"{model} does not name public images: give --dataset")
    if name == IN_MEMORY:
        raise ValueError(f"{model} was trained on objects in memory: give --dataset")
    if not is_public(name) and not is_here(name):
        where = "which is not there any more"
        if not Path(name).is_absolute():
            where = (
                "a path relative to the folder where pretraining was started: nothing is there "
                f"from {Path.cwd()}"
            )
        raise FileNotFoundError(f"{model} was trained on {name!r}, {where}: give --dataset")
    return trained["dataset"], image_column or trained["image_column"]


def pixel_options(
    encoder: SSLModel,
    trained: dict[str, Any],
    value_range: ValueRange | None,
    max_pixels: int | None,
    background: str | None = None,
) -> dict[str, Any]:
    """Return how images are decoded, as options of `load_source`: as given, else as in training."""
    limit = trained.get("max_pixels")
    return {
        "value_range": value_range or encoder.value_range,
        "background": background or encoder.background,
        "max_pixels": max_pixels or (limit if isinstance(limit, int) else None),
    }


def python_name(name: str, revision: str | None) -> str:
    """Return the arguments of `effssl.from_pretrained` as they are typed in Python."""
    return f'"{name}"' + (f', revision="{revision}"' if revision else "")


def check_names(model: str | None, dataset: str | None) -> None:
    """Check what is given by its name before torch is imported, which takes seconds.

    One of several processes checks nothing here: it may not end without telling the others.

    Raises:
        FileNotFoundError: If a model or a data set is a path that leads to nothing.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        return
    if model is not None:
        check_model_name(model)
    if dataset:
        check_dataset_name(dataset)


def is_main_process() -> bool:
    """Return whether this process prints: rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"

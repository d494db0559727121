"""Record of a run, the training.json of its model folder."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
from collections.abc import Collection

import torch
from accelerate import Accelerator

from effssl.hub._record_keys import COLUMNS
from effssl.own import is_object, is_own
from effssl.training._fields import names_where
from effssl.training._metrics import read_history
from effssl.training.config import PretrainConfig
from effssl.version import __version__


def training_record(
    config: PretrainConfig,
    accelerator: Accelerator,
    step: int,
    epoch_steps: int,
    *,
    images: int,
    images_seen: int,
    public: Collection[str],
    minutes: float,
) -> dict:
    """Return how a model was trained.

    The record is published with the model, so it holds no path of this machine.

    Args:
        config: Configuration of the run; the metrics are read from its folder.
        accelerator: Accelerator of the run.
        step: Number of steps done.
        epoch_steps: Number of steps of an epoch.
        images: Number of images that could be trained on, without broken ones.
        images_seen: Number of images that were trained on, with repetition.
        public: Fields whose values others can load too, among data set and weights to go on from,
            so that they are told. It is decided when they are loaded, since a folder that is moved
            away looks like a name on the Hub.
        minutes: Minutes of training, over all launches.
    """
    history = read_history(config.run_folder, step)
    if is_own(config.loss):  # its parts may be called anything, and are in metrics.jsonl alone
        history = {name: column for name, column in history.items() if name in COLUMNS}
    if_public = names_where(config, "published", "if public")
    private = names_where(config, "published", "no") | (if_public - set(public))
    flags = config.flags({"dataset"} | private | names_where(config, "saved", False))
    if "dataset" in public:  # also where it is the default
        flags += ["--dataset", config.dataset]
    command = shlex.join(["effssl", "pretrain", *flags])
    if any(map(is_object, (config.loss, config.preset, str(config.init)))):
        command = None  # there is none
    return {
        "config": config.values() | dict.fromkeys(private),
        "command": command,
        "images": images,
        "step": step,
        "epoch": round(step / epoch_steps, 4),
        "images_seen": images_seen,
        "views_seen": images_seen * config.all_views,
        "minutes": round(minutes, 2),
        "hardware": _hardware(accelerator),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "versions": _versions(),
        "history": history,
    }


def _hardware(accelerator: Accelerator) -> str:
    device, count = accelerator.device, accelerator.num_processes
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        kind = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else device.type
        name = f"{kind}, {torch.get_num_threads()} threads"
    return f"{count} x {name}" if count > 1 else name


def _versions() -> dict[str, str]:
    """Versions of Python and of the packages that determine what a run computes."""
    packages = ("torch", "torchvision", "timm", "accelerate", "datasets")
    # effssl may be imported from a checkout, where nothing is installed
    return {"python": platform.python_version(), "effssl": __version__} | {
        package: importlib.metadata.version(package) for package in packages
    }

"""Record of a run, the training.json of its model folder."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex

import torch
from accelerate import Accelerator

from effssl.data.sources import is_public
from effssl.training._fields import names_where
from effssl.training._metrics import read_history
from effssl.training.config import PretrainConfig


def private_fields(config: PretrainConfig) -> frozenset[str]:
    """Return the fields that are not published, to be decided once, at the start of a run.

    Later a local data set may have moved, and its name would be taken for one on the Hub.
    """
    private = names_where(config, "published", "no")
    if not is_public(config.dataset):
        private |= names_where(config, "published", "if public")
    return frozenset(private)


def training_record(
    config: PretrainConfig,
    accelerator: Accelerator,
    step: int,
    epoch_steps: int,
    *,
    images: int,
    minutes: float,
    private: frozenset[str],
) -> dict:
    """Return how a model was trained.

    The record is published with the model, so it holds no path of this machine.

    Args:
        config: Configuration of the run; the metrics are read from its folder.
        accelerator: Accelerator of the run.
        step: Number of steps done.
        epoch_steps: Number of steps of an epoch.
        images: Number of images of the data set.
        minutes: Minutes of training, over all launches.
        private: Names of the fields that are not published, from `private_fields`.
    """
    if_public = names_where(config, "published", "if public")
    flags = config.flags(private | if_public | names_where(config, "saved", False))
    for name in if_public - private:
        flags += ["--" + name, getattr(config, name)]
    return {
        "config": config.values() | dict.fromkeys(private),
        "command": shlex.join(["effssl", "pretrain", *flags]),
        "images": images,
        "step": step,
        "epoch": round(step / epoch_steps, 4),
        "images_seen": step * config.batch_size,
        "views_seen": step * config.batch_size * config.views,
        "minutes": round(minutes, 2),
        "hardware": _hardware(accelerator),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "versions": _versions(),
        "history": read_history(config.run_folder, step),
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
    packages = ("effssl", "torch", "torchvision", "timm", "accelerate", "datasets")
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in packages
    }

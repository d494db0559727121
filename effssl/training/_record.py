"""What training.json of a model folder says of the run that made it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import shlex

import torch
from accelerate import Accelerator

from effssl.data.sources import is_public
from effssl.training._monitor import read_history
from effssl.training.config import PretrainConfig


def training_record(
    config: PretrainConfig,
    accelerator: Accelerator,
    step: int,
    epoch_steps: int,
    *,
    images: int,
    minutes: float,
) -> dict:
    """How a model was trained, without anything of this machine: it goes where the folder goes.

    Args:
        config: Configuration of the run, from whose folder the metrics are read.
        accelerator: Says on what it runs.
        step: Steps done.
        epoch_steps: Steps of an epoch.
        images: Images of the data set.
        minutes: Time of training, over all launches.
    """
    public = is_public(config.dataset)
    flags = config.flags(without=("output", "resume", "overwrite", "dataset"))
    if public:
        flags += ["--dataset", config.dataset]
    return {
        "config": dataclasses.asdict(config)
        | {"output": None, "dataset": config.dataset if public else None},
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
    """Of Python and of the packages that decide what a run computes."""
    packages = ("effssl", "torch", "torchvision", "timm", "accelerate", "datasets")
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in packages
    }

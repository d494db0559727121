"""Accelerator of a run, with the launched processes and the configured precision."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from effssl.data._workers import available_cores
from effssl.distributed import own_buffers
from effssl.hints import option
from effssl.training.config import PretrainConfig

logger = logging.getLogger(__name__)

_LONGEST = 1e6  # minutes that a process group may be told to wait
_NOT_DETERMINISTIC = " does not have a deterministic implementation"


class _DdpOptions(DistributedDataParallelKwargs):
    """Options of DDP that disable the broadcast of buffers before each forward pass."""

    def to_kwargs(self) -> dict:
        return super().to_kwargs() | own_buffers()


def create_accelerator(config: PretrainConfig) -> Accelerator:
    """Start Accelerate and check that it follows the configuration.

    Raises:
        ValueError: If a launcher setting contradicts the configuration, or fewer processes run
            than were launched.
    """
    has_accelerator = torch.cuda.is_available() or torch.backends.mps.is_available()
    cpu = config.cpu or not has_accelerator
    precision = mixed_precision(config.precision, cpu)
    _check_launcher(config, precision)
    torch.use_deterministic_algorithms(config.deterministic)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = not config.deterministic
    group = InitProcessGroupKwargs(timeout=timedelta(minutes=min(config.timeout_minutes, _LONGEST)))
    # with a backend, Accelerate expects a group, which it creates only under a launcher
    has_group = int(os.environ.get("LOCAL_RANK", -1)) != -1
    if has_group and not cpu and torch.cuda.is_available():
        group.backend = "cuda:nccl,cpu:gloo"  # gloo lets processes agree on when to stop
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=precision,
        log_with=config.tracker,
        project_dir=config.run_folder,
        kwargs_handlers=[group],
    )
    # Accelerate refuses a subclass as an argument
    accelerator.ddp_handler = _DdpOptions(gradient_as_bucket_view=True)
    if accelerator.device.type == "cpu" and not cpu:
        raise ValueError(
            "this Python process has trained on the CPU before and Accelerate keeps to it: start "
            "another to use the accelerator"
        )
    asked = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != asked:
        raise ValueError(
            f"{asked} processes were launched but Accelerate runs {accelerator.num_processes}: "
            "launch with torchrun, or with accelerate launch on as many accelerators"
        )
    if asked == 1 and accelerator.device.type == "cpu":
        _warn_of_idle_cores()
    return accelerator


def _check_launcher(config: PretrainConfig, precision: str) -> None:
    """Raise ValueError if the environment contradicts the configuration."""
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    # accelerate launch exports "no" by default, so "no" contradicts nothing
    if launched not in ("no", precision):
        raise ValueError(
            f"the launcher asks for mixed precision {launched!r}, the configuration for "
            f"{config.precision!r}: give {option('precision')} {launched}, or launch without it"
        )
    if config.tracker is not None and importlib.util.find_spec(config.tracker) is None:
        raise ValueError(
            f"{option('tracker')} {config.tracker!r} is not installed: pip install "
            "'effssl[trackers]'"
        )
    if "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            "several processes were asked for but one was started: accelerate launch --cpu does "
            "not start more; use torchrun --standalone --nproc_per_node N ... --cpu"
        )
    for plugin in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{plugin}", "false").lower() in ("true", "1"):
            raise ValueError(
                f"the launcher asks for {plugin}, which shards models that do not fit on a device; "
                "these do, and their losses are exact under DDP only: launch without it"
            )


def _warn_of_idle_cores() -> None:
    cores = available_cores()
    threads = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else cores
    if threads < cores:
        logger.warning(
            "using %d of %d CPU cores, as OMP_NUM_THREADS says; accelerate launch sets it to 1 "
            "unless it is given --num_cpu_threads_per_process %d",
            threads,
            cores,
            cores,
        )


@contextmanager
def explain_determinism(backbone: str) -> Iterator[None]:
    """Explain the error of an operation that has no deterministic implementation.

    Args:
        backbone: Name of the backbone that the block trains.

    Raises:
        ValueError: In place of the RuntimeError of such an operation.
    """
    try:
        yield
    except RuntimeError as error:
        operation, found, _ = str(error).partition(_NOT_DETERMINISTIC)
        if not found:
            raise
        raise ValueError(
            f"{option('deterministic')} does not go with {option('backbone')} {backbone!r} on this "
            f"device: PyTorch has no deterministic {operation}; leave it out, or take a backbone "
            "without that operation, such as resnet50"
        ) from error


def mixed_precision(precision: str, cpu: bool) -> str:
    """Return Accelerate's name of a configured precision: no, bf16 or fp16.

    Args:
        precision: Precision of the configuration.
        cpu: Whether the run is on the CPU.
    """
    if precision != "auto":
        return "no" if precision in ("fp32", "fp64") else precision
    if cpu:
        # without AMX, bf16 is emulated and ten times slower than fp32
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return "bf16" if capabilities.get("amx_bf16") else "no"
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(False) else "no"

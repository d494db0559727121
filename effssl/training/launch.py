"""The Accelerator of a run: as many processes as were launched, in the precision asked for."""

from __future__ import annotations

import importlib.util
import logging
import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from effssl.data.loader import available_cores
from effssl.training.config import PretrainConfig

logger = logging.getLogger(__name__)


def create_accelerator(config: PretrainConfig) -> Accelerator:
    """Start Accelerate and check that it did what was asked for.

    Raises:
        ValueError: If a launcher setting contradicts the configuration, or fewer processes run
            than were launched.
    """
    has_accelerator = torch.cuda.is_available() or torch.backends.mps.is_available()
    cpu = config.cpu or not has_accelerator
    precision = mixed_precision(config, cpu)
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    # accelerate launch exports "no" when it was told nothing, so "no" contradicts nothing
    if launched not in ("no", precision):
        raise ValueError(
            f"the launcher asks for mixed precision {launched!r}, the configuration for "
            f"{config.precision!r}: give --precision {launched}, or launch without it"
        )
    if config.tracker is not None and importlib.util.find_spec(config.tracker) is None:
        raise ValueError(
            f"tracker {config.tracker!r} is not installed: pip install 'effssl[trackers]'"
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
    torch.use_deterministic_algorithms(config.deterministic)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = not config.deterministic
    group = InitProcessGroupKwargs(timeout=timedelta(minutes=config.timeout_minutes))
    # only where a launcher started processes: given a backend, Accelerate asks for their group
    launched = int(os.environ.get("LOCAL_RANK", -1)) != -1
    if launched and not cpu and torch.cuda.is_available():
        group.backend = "cuda:nccl,cpu:gloo"  # processes also agree on when to stop, on the CPU
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=precision,
        log_with=config.tracker,
        project_dir=config.run_folder,
        kwargs_handlers=[group, DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
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
    cores = available_cores()
    threads = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else cores
    if asked == 1 and accelerator.device.type == "cpu" and threads < cores:
        logger.warning(
            "using %d of %d CPU cores, as OMP_NUM_THREADS says; accelerate launch sets it to 1 "
            "unless it is given --num_cpu_threads_per_process %d",
            *(threads, cores, cores),
        )
    return accelerator


def mixed_precision(config: PretrainConfig, cpu: bool) -> str:
    """Accelerate's name of the precision: no, bf16 or fp16."""
    if config.precision != "auto":
        return "no" if config.precision in ("fp32", "fp64") else config.precision
    if cpu:
        # emulated bf16 is ten times slower than fp32; AMX is what makes it faster
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return "bf16" if capabilities.get("amx_bf16") else "no"
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(False) else "no"

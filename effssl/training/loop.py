"""The pretraining loop: batches to views to projections to loss, through Accelerate."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator

from effssl.data.broken import BrokenImages
from effssl.data.sources import load_source
from effssl.hub.folder import save_pretrained, versions
from effssl.losses import create_loss
from effssl.model import check_input, create_model
from effssl.seeding import derived_seed, seeded_generator
from effssl.training.batches import create_batches, create_loader
from effssl.training.checkpoint import load_checkpoint, save_checkpoint
from effssl.training.config import PretrainConfig
from effssl.training.launch import create_accelerator
from effssl.training.monitor import Monitor
from effssl.training.optim import create_optimizer, create_schedule
from effssl.views import MultiView

logger = logging.getLogger(__name__)

# these may change between a stop and the resume
_RUN_FIELDS = set("output resume overwrite cpu workers cache_gb log_every tracker".split())


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain a backbone as configured, alone or as one of the processes of a launcher.

    The run folder (``config.run_folder``) gets config.json, metrics.jsonl, a checkpoint and a model
    folder at the end of every epoch. What the run computes is a function of the configuration: the
    order of images and the views are drawn from its seed and the step.

    Returns:
        The model folder, for `from_pretrained`.

    Raises:
        ValueError: If the configuration does not fit the data, the backbone or the launcher.
        FileNotFoundError: If there is no such data set.
        FileExistsError: If the run folder exists and neither resume nor overwrite is set.
        FloatingPointError: If the loss becomes infinite or not a number.
    """
    accelerator = create_accelerator(config)
    rank = accelerator.process_index

    # everything that can be wrong is found before anything is written
    _check_run_folder(config)
    source = load_source(
        config.dataset,
        config.split,
        in_chans=config.in_chans,
        image_column=config.image_column,
        streaming=config.streaming,
    )
    batches = create_batches(config, source, rank, accelerator.num_processes)
    multi_view = MultiView(config.preset, views=config.views, size=config.img_size)
    loss_fn = create_loss(config.loss, dim=config.projector_dim, multiview=config.multiview)
    torch.manual_seed(derived_seed(config.seed, "weights"))
    model = create_model(
        config.backbone,
        projector_dim=config.projector_dim,
        in_chans=config.in_chans,
        img_size=config.img_size,
        patch_size=config.patch_size,
        pretrained=config.pretrained,
    )
    model.set_input(config.img_size, *multi_view.options.channel_stats(config.in_chans))
    check_input(model)
    optimizer = create_optimizer(model, config)
    total_steps = config.epochs * len(batches)
    if config.max_steps is not None:
        total_steps = min(total_steps, config.max_steps)
    schedule = create_schedule(optimizer, config, total_steps, len(batches))
    broken = BrokenImages(batches.images)
    loader = create_loader(config, source, batches, accelerator.device)

    state = _open_run_folder(accelerator, config)
    step = 0
    if state is not None:
        model.load_state_dict(state["model"])
        step = state["step"]
    model, optimizer = accelerator.prepare(model.to(memory_format=torch.channels_last), optimizer)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        _save_model(accelerator, config, model, step)  # the stop may have come just before it
    model.train()
    with Monitor(accelerator, config, broken, step, total_steps, len(batches)) as monitor:
        while step < total_steps:
            batches.epoch, batches.first = divmod(step, len(batches))
            for batch in loader:
                torch.manual_seed(derived_seed(config.seed, "dropout", step, rank))
                draws = multi_view.draw(
                    config.batch_size,
                    seeded_generator(config.seed, "views", step),
                    channels=config.in_chans,
                )
                draws = {k: values[:, batches.local][:, batch.rows] for k, values in draws.items()}
                images = batch.images.to(accelerator.device, non_blocking=True)
                views = multi_view.apply(images, draws, batch.sizes)  # (V, n, C, S, S)
                flat = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
                z = model(flat, project=True).unflatten(0, views.shape[:2])  # (V, n, D)
                z = z[:, : batch.count]
                broken.add(batch.broken)
                loss, parts = loss_fn(z, return_parts=True)
                schedule.step_update(step)
                optimizer.zero_grad()
                accelerator.backward(loss)
                optimizer.step()
                step += 1
                monitor.step(step, loss, parts, optimizer.param_groups[0]["lr"])
                if step == total_steps:
                    break
            _save_checkpoint(accelerator, config, model, optimizer, step)
            _save_model(accelerator, config, model, step)
            accelerator.wait_for_everyone()
    return config.run_folder / "model"


def _save_checkpoint(
    accelerator: Accelerator, config: PretrainConfig, model, optimizer, step: int
) -> None:
    if not accelerator.is_main_process:
        return
    ssl_model = accelerator.unwrap_model(model, keep_torch_compile=False)
    state = {"model": ssl_model.state_dict(), "optimizer": optimizer.state_dict()}
    if accelerator.scaler is not None:
        state["scaler"] = accelerator.scaler.state_dict()
    save_checkpoint(config.run_folder, step, state)


def _save_model(accelerator: Accelerator, config: PretrainConfig, model, step: int) -> None:
    if not accelerator.is_main_process:
        return
    training = {
        "config": dataclasses.asdict(config),
        "step": step,
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "versions": versions(),
    }
    ssl_model = accelerator.unwrap_model(model, keep_torch_compile=False)
    save_pretrained(ssl_model, config.run_folder / "model", training=training)


def _check_run_folder(config: PretrainConfig) -> None:
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
    changed = [k for k in now if k not in _RUN_FIELDS and before.get(k) != now[k]]
    if changed:
        was = ", ".join(f"{k} was {before.get(k)!r}, is {now[k]!r}" for k in changed)
        raise ValueError(f"cannot resume {folder} with another configuration: {was}")


def _open_run_folder(accelerator: Accelerator, config: PretrainConfig) -> dict | None:
    """Prepare the run folder; return the state to resume from, if any."""
    folder = config.run_folder
    accelerator.wait_for_everyone()  # every process has checked the folder before one changes it
    if accelerator.is_main_process:
        if config.overwrite:
            for name in ("checkpoints", "model"):
                shutil.rmtree(folder / name, ignore_errors=True)
            (folder / "metrics.jsonl").unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "config.json.partial"
        partial.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
        partial.replace(folder / "config.json")
    accelerator.wait_for_everyone()
    if config.tracker is not None:
        flat = {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
        accelerator.init_trackers("effssl", config=flat)
    if not config.resume:
        return None
    state = load_checkpoint(folder)
    if state is None:
        logger.info("no checkpoint in %s yet: starting from the beginning", folder)
    return state

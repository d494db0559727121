"""Parts of a run, built from its configuration before anything is written."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from timm.scheduler import CosineLRScheduler
from torch import nn

from effssl.batch_norm import make_global
from effssl.data._broken import BrokenImages
from effssl.data._fingerprint import Fingerprint, Inventory
from effssl.data._loader import Batch, BatchShard, EpochBatches, decode_size
from effssl.data._stream import StreamBatches
from effssl.data._workers import worker_count
from effssl.data.sources import Source, is_public, load_source
from effssl.hints import option
from effssl.loss_specs import ignores_shifts
from effssl.model import SSLModel, check_input, create_model
from effssl.optim import create_optimizer, create_schedule
from effssl.progress import Stage
from effssl.seeding import derived_seed
from effssl.training._agreement import check_same_images, together
from effssl.training._batches import create_batches, create_loader
from effssl.training._ema import AveragedWeights
from effssl.training._faults import NonFiniteGuard
from effssl.training._online_evaluation import OnlineEvaluation
from effssl.training._optim import check_lr, freeze_unused_parameters, keep_less, scaled_lr
from effssl.training._own import Own, run_loss, run_views
from effssl.training._run_images import place_of
from effssl.training._staging import Stager
from effssl.training._start import Start
from effssl.training._state import RunState
from effssl.training._step import TrainStep
from effssl.training.config import PretrainConfig
from effssl.views import MultiView
from effssl.views._channels import channels_note
from effssl.views.own import OwnViews

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunParts:
    """What a run is made of.

    Attributes:
        config: Configuration of the run, with the value range that was found if it was ``auto``.
        state: What changes during the run.
        model: The model prepared by Accelerate.
        saved_model: Copy on the CPU that model folders are written from.
        batches: Order of the images.
        loader: Batches of an epoch, loaded.
        stage: Copies batches to the device.
        train_step: Computes the gradient of a batch.
        schedule: Learning-rate schedule.
        evaluation: Evaluation during the run, if any.
        total_steps: Number of steps of the whole run.
        images: What the run remembers of its images.
        known_broken: Number of broken images, as far as a cache knows it.
        public: Fields of the configuration whose values others can load.
        start: What start.json of the run folder gets to say, if anything.
    """

    config: PretrainConfig
    state: RunState
    model: nn.Module
    saved_model: SSLModel
    batches: EpochBatches | StreamBatches
    loader: Iterable[Batch]
    stage: Stager
    train_step: TrainStep
    schedule: CosineLRScheduler
    evaluation: OnlineEvaluation | None
    total_steps: int
    images: Fingerprint
    known_broken: int
    public: frozenset[str]
    start: dict | None


def build(
    config: PretrainConfig, accelerator: Accelerator, start: Start | None, own: Own
) -> RunParts:
    """Build the parts of a run.

    Args:
        config: Configuration of the run.
        accelerator: Accelerator of the run.
        start: Weights to go on from; random ones if None.
        own: Objects in the place of what the configuration names.

    Raises:
        ValueError: If the configuration does not fit the data, the backbone or the launcher.
        FileNotFoundError: If there is no such data set.
    """
    rank, world_size = accelerator.process_index, accelerator.num_processes
    shard = BatchShard(config.batch_size, config.micro_batch, rank, world_size)
    side, workers = decode_size(config.img_size), worker_count(config.workers)
    with together(), Stage("open the data set"):
        public = {"dataset"} if is_public(config.dataset) else set()
        source = _load_source(config)
        batches = create_batches(source, shard, config.seed, short_side=side, workers=workers)
        inventory = Inventory(source, batches.images)
        images = inventory.fingerprint()
    check_same_images(config, images)
    config = replace(config, value_range=source.value_range)
    with together():
        normalization = {} if start is None else start.normalization
        views = run_views(config, own, accelerator.device, normalization)
        loss_fn = run_loss(config, own, len(shard.places), accelerator.device)
    # of the preset, which the mean and std of weights to go on from do not change
    note = channels_note(config.preset, config.view.over(config.preset), config.in_chans)
    if note and isinstance(views[0], MultiView):
        logger.info("%s", note)
    with Stage(f"create {config.backbone}"):
        net = _create_model(config, views[0], start, own.model)
    if (start is not None and start.public) or own.model is not None:
        public.add("init")
    if world_size > 1:
        net = make_global(net)
    total_steps = config.epochs * len(batches)
    if config.max_steps is not None:
        total_steps = min(total_steps, config.max_steps)
    frozen_steps = config.freeze_epochs * len(batches)
    if frozen_steps >= total_steps:
        raise ValueError(
            f"{option('freeze_epochs')} {config.freeze_epochs} leaves none of the "
            f"{total_steps} steps to train the backbone in: give fewer, or more epochs"
        )
    optimizer, schedule = _create_optimizer(config, net, total_steps, len(batches))
    loader = _create_loader(config, accelerator, source, batches, inventory)
    evaluation = _online_evaluation(config, source, loader)
    saved_model = copy.deepcopy(net)
    if config.compile:
        net.backbone.compile()
    net = net.to(memory_format=torch.channels_last)
    model, optimizer = accelerator.prepare(net, optimizer)
    return RunParts(
        config=config,
        state=RunState(
            model=net,
            optimizer=optimizer,
            scaler=accelerator.scaler,
            faults=_create_guard(config, net),
            broken=BrokenImages(batches.images, max_broken=config.max_broken),
            average=_average(config, saved_model, accelerator.device),
        ),
        model=model,
        saved_model=saved_model,
        batches=batches,
        loader=loader,
        stage=Stager(views, shard, config.seed, accelerator.device),
        train_step=TrainStep(
            accelerator,
            model,
            views,
            loss_fn,
            seed=config.seed,
            fp64=config.precision == "fp64",
            in_chunks=config.micro_batch is not None,
            frozen_steps=frozen_steps,
            recomputes=config.grad_checkpointing,
        ),
        schedule=schedule,
        evaluation=evaluation,
        total_steps=total_steps,
        images=inventory.fingerprint(),
        known_broken=len(getattr(getattr(loader, "dataset", None), "broken", ())),
        public=frozenset(public),
        start=None if start is None else start.record(net),
    )


def _load_source(config: PretrainConfig) -> Source:
    return load_source(
        config.dataset,
        config.split,
        in_chans=config.in_chans,
        image_column=config.image_column,
        label_column=config.label_column,
        streaming=config.streaming,
        value_range=config.value_range,
        background=config.background,
        max_pixels=config.max_pixels,
    )


def _create_loader(
    config: PretrainConfig,
    accelerator: Accelerator,
    source: Source,
    batches: EpochBatches | StreamBatches,
    inventory: Inventory,
) -> Iterable[Batch]:
    name = config.values()["dataset"]
    return create_loader(
        source,
        batches,
        accelerator.device,
        short_side=decode_size(config.img_size),
        workers=worker_count(config.workers),
        cache_bytes=1e9 * config.cache_gb,
        max_broken=config.max_broken,
        keep_on_gpu=config.precision != "fp64",  # a step converts all pixels that its batch holds
        name=place_of(name) or name,
        digest=inventory.digest,
    )


def _create_optimizer(
    config: PretrainConfig, net: nn.Module, total_steps: int, epoch_steps: int
) -> tuple[torch.optim.Optimizer, CosineLRScheduler]:
    lr = scaled_lr(config.lr, config.lr_scaling, config.batch_size)
    check_lr(lr, config.optimizer)
    optimizer = create_optimizer(
        net, config.optimizer, lr, config.weight_decay, layer_decay=config.layer_decay
    )
    warmup_steps = min(round(config.warmup_epochs * epoch_steps), total_steps // 10)
    return optimizer, create_schedule(optimizer, lr, total_steps, warmup_steps)


def _create_guard(config: PretrainConfig, net: nn.Module) -> NonFiniteGuard:
    return NonFiniteGuard(
        net,
        config.run_folder,
        lr=config.lr,
        precision=config.precision,
        grad_clip=config.grad_clip,
    )


def _create_model(
    config: PretrainConfig,
    multi_view: MultiView | OwnViews,
    start: Start | None,
    own: SSLModel | None,
) -> SSLModel:
    torch.manual_seed(derived_seed(config.seed, "weights"))
    if own is not None:
        model = copy.deepcopy(own)
    elif start is not None:
        model = start.build(config)
    else:
        model = create_model(
            config.backbone,
            projector_dim=config.projector_dim,
            projector_layers=config.projector_layers,
            projector_hidden=config.projector_hidden,
            in_chans=config.in_chans,
            img_size=config.img_size,
            patch_size=config.patch_size,
            drop_path=config.drop_path,
            dynamic_img_size=config.local_views > 0,
        )
    stats = multi_view.options.channel_stats(config.in_chans)
    model.set_input(config.img_size, *stats, config.value_range, config.background)
    if start is not None:
        start.describe(model)
    check_input(model)
    _warn_of_unseen_pixels(model, config.img_size)
    if config.local_views:
        check_input(model, config.local_size)
        _warn_of_unseen_pixels(model, config.local_size)
    frozen = []
    if config.projector_layers > 1 or ignores_shifts(config.loss):  # batch norm ignores them too
        frozen = freeze_unused_parameters(model) if start is None else start.freeze(model)
    if frozen:
        logger.info(
            "kept at its initial value, as it should be, since it shifts the features of all "
            "images alike and the loss does not depend on it: %s",
            ", ".join(frozen),
        )
    if config.grad_checkpointing:
        keep_less(model.backbone)
    return model.double() if config.precision == "fp64" else model


def _average(
    config: PretrainConfig, model: nn.Module, device: torch.device
) -> AveragedWeights | None:
    return None if config.ema is None else AveragedWeights(model, config.ema, device)


def _warn_of_unseen_pixels(model: SSLModel, size: int) -> None:
    """Warn if the patches of a ViT-like backbone leave a rest of each view."""
    patch = getattr(getattr(model.backbone, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and (rest := size % patch[0]):
        logger.warning(
            "views of %d px are no multiple of the patch of %d px: the backbone does not see their "
            "last %d px",
            size,
            patch[0],
            rest,
        )


def _online_evaluation(
    config: PretrainConfig, source: Source, loader: Iterable[Batch]
) -> OnlineEvaluation | None:
    if config.evaluate_every == 0 or source.streaming:
        return None
    images, seed = loader.dataset, config.seed
    if source.label_column is not None:
        try:
            return OnlineEvaluation(source, images, seed, labeled=True)
        except ValueError as error:
            if config.label_column is not None:
                raise
            logger.info("no k-NN accuracy: %s", error)  # such as lists
    return OnlineEvaluation(source, images, seed, labeled=False)

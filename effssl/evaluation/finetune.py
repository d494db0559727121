"""Fine-tuning: the whole backbone and a fresh classifier, trained with labels."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Subset

from effssl.batch_norm import make_global
from effssl.data._broken import MAX_BROKEN, BrokenImages
from effssl.data._cache import cache_images
from effssl.data._loader import (
    Batch,
    BatchShard,
    DecodedImages,
    EpochBatches,
    decode_size,
    image_loader,
)
from effssl.data.sources import Source
from effssl.device import to_device
from effssl.distributed import all_reduce_, gather_counts, join, own_buffers, world_size
from effssl.evaluation._device import (
    Precision,
    autocast,
    decoding_workers,
    resolve_precision,
)
from effssl.evaluation._images import Images
from effssl.evaluation.accuracy import Accuracy, topk_classes
from effssl.evaluation.features import extract_readable
from effssl.hints import option
from effssl.model import SSLModel
from effssl.optim import create_optimizer, create_schedule
from effssl.progress import Stage
from effssl.seeding import derived_seed, seeded_generator
from effssl.views import MultiView
from effssl.views.options import ViewOptions

LEAST_IMAGES = 2  # of a step: batch norm needs more than one value
EPOCHS, LR, BATCH_SIZE, WEIGHT_DECAY = 3, 1e-3, 64, 0.05
LEAST_STEPS = 100
"""Steps of fine-tuning below which a result tells nothing of the features."""
_SCALE = (0.7, 1.0)
_CACHE_BYTES = 10e9


def finetune(
    model: SSLModel | nn.Module,
    train: Source,
    test: Source,
    *,
    share: float = 1.0,
    epochs: int | None = None,
    lr: float = LR,
    layer_decay: float | None = None,
    batch_size: int = BATCH_SIZE,
    precision: Precision = "auto",
    seed: int = 0,
    max_broken: float = MAX_BROKEN,
    workers: int | None = None,
    progress: bool = False,
) -> Accuracy:
    """Train a copy of the backbone with a fresh classifier, and test it.

    AdamW with weight decay 0.05 and a cosine schedule after a tenth of warm-up; random resized
    crops of 70 % or more of the image, and flips; the last epoch counts. Under a launcher such as
    torchrun the processes share the batches.

    Args:
        model: `SSLModel` or timm model; it stays as it is.
        train: Labeled images.
        test: Labeled images to measure accuracy on.
        share: Share of the labels of every class of train, one image at least.
        epochs: Passes over them; 3 / sqrt(share) if None, or as many as 100 steps need.
        lr: Learning rate after warm-up.
        layer_decay: Factor of the learning rate from each layer to the one below; none if None.
            0.65 to 0.75 are usual for ViTs.
        batch_size: Images in a step over all processes, or all of train if they are fewer.
        precision: Precision of training and test, as for `extract_features`.
        seed: Seed of the classifier, the choice of the share, the order and the crops.
        max_broken: Largest share of broken images of train and of test, rounded up; they are named
            and left out, and so are images without a label.
        workers: Number of decoding processes, as for `extract_features`; the result does not
            depend on it.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If train and test do not fit together (`dense_labels`), share is not above 0 and
            at most 1, epochs is below 1, precision is unknown, or more images are broken.
        FloatingPointError: If the loss is not finite, at the end of the epoch.
    """
    check_tuning(share, epochs)
    join(cpu=next(model.parameters()).device.type == "cpu")
    return tune(
        model,
        Images.labeled(train, test, max_broken),
        share=share,
        epochs=epochs,
        lr=lr,
        layer_decay=layer_decay,
        batch_size=batch_size,
        precision=precision,
        seed=seed,
        workers=workers,
        progress=progress,
    )


def tune(
    model: SSLModel | nn.Module,
    images: Images,
    *,
    share: float,
    epochs: int | None,
    lr: float,
    layer_decay: float | None,
    precision: Precision,
    seed: int,
    workers: int | None,
    progress: bool,
    batch_size: int = BATCH_SIZE,
) -> Accuracy:
    """Do what `finetune` does, with the same arguments, for images whose classes are read."""
    device = next(model.parameters()).device
    precision = resolve_precision(precision, device)
    rows = _share_of_classes(images.train_labels, share, seed)
    net = _with_classifier(model, len(images.classes), seed)
    workers = decoding_workers(workers, len(images.train.dataset), device)
    data = _create_data(images, rows, net.pretrained_cfg, batch_size, seed, workers)
    steps = (epochs or default_epochs(share, len(data.batches))) * len(data.batches)
    if world_size() > 1:
        net = make_global(net)
    shown = progress and data.local.rank == 0
    with Stage(f"fine-tune {share:.3g}", steps, "step", shown=shown) as stage:
        _train(net, data, lr, layer_decay, precision, seed, stage)
    rows = images.test_rows
    options = {"precision": precision, "workers": workers, "progress": progress}
    scores, kept = extract_readable(net, images.test, rows, images.test_broken, **options)
    labels = images.test_labels[rows][kept]
    return Accuracy.of(topk_classes(scores), labels, len(images.classes))


@dataclass(frozen=True)
class _Data:
    """Batches of labeled images of this process, and the broken ones met so far."""

    labels: Tensor
    broken: BrokenImages
    local: BatchShard
    batches: EpochBatches
    loader: Iterable[Batch]
    crops: MultiView


def _create_data(
    images: Images,
    rows: Tensor,
    cfg: dict[str, Any],
    batch_size: int,
    seed: int,
    workers: int,
) -> _Data:
    channels, size = cfg["input_size"][:2]
    side = decode_size(size)
    train = images.train.as_trained(cfg.get("value_range"), cfg.get("background"))
    broken = images.train_broken
    decoded = cache_images(
        train, side, max_bytes=_CACHE_BYTES, workers=workers, max_broken=broken.max_broken
    )
    decoded = Subset(DecodedImages(train, side) if decoded is None else decoded, rows.tolist())
    rank = dist.get_rank() if world_size() > 1 else 0
    local = BatchShard(_batch_size(len(rows), batch_size), None, rank, world_size())
    batches = EpochBatches(len(rows), local, seed)
    loader = image_loader(decoded, batches, channels, workers)
    options = ViewOptions(
        scale=_SCALE, jitter=0.0, grey=0.0, mean=tuple(cfg["mean"]), std=tuple(cfg["std"])
    )
    crops = MultiView(options, views=1, size=size)
    return _Data(images.train_labels[rows], broken, local, batches, loader, crops)


def _train(
    net: nn.Module,
    data: _Data,
    lr: float,
    layer_decay: float | None,
    precision: Precision,
    seed: int,
    stage: Stage,
) -> None:
    """Train for the steps of the stage; the processes share the batches."""
    device = next(net.parameters()).device
    steps, local, batches = stage.total, data.local, data.batches
    optimizer = create_optimizer(net, "adamw", lr, WEIGHT_DECAY, layer_decay=layer_decay)
    schedule = create_schedule(optimizer, lr, steps, warmup_steps=steps // 10)
    trained = net
    if world_size() > 1:
        devices = [device.index] if device.type == "cuda" else None
        trained = DistributedDataParallel(net, devices, **own_buffers())
    trained.train()
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    losses: list[Tensor] = []  # read once an epoch, because each reading waits for the device
    for step in range(steps):
        batches.epoch, batch_of_epoch = divmod(step, len(batches))
        if batch_of_epoch == 0:
            epoch = zip(batches, data.loader, strict=True)
        indices, batch = next(epoch)
        data.broken.add(batch.broken)
        schedule.step_update(step)
        loss = torch.zeros((), device=device)
        (counts,) = gather_counts([len(batch.rows)])
        if sum(counts) >= LEAST_IMAGES:  # else broken images left too few; all processes know
            views = _crops(data.crops, batch, local, device, seed, step)
            wanted = to_device(data.labels[indices][batch.rows], device)
            with autocast(precision, device):
                # the sum over all processes' images; DDP averages the gradients
                loss = F.cross_entropy(trained(views), wanted, reduction="sum")
            scaler.scale(loss * world_size() / local.batch_size).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        losses.append(loss.detach())
        if len(losses) == len(batches):
            data.broken.share()
            mean = _check_finite(losses, step + 1, lr)
            stage.say(f"cross-entropy {mean / local.batch_size:.3g}")
            losses.clear()
        stage.update()


def check_tuning(share: float, epochs: int | None) -> None:
    """Raise ValueError if share is not above 0 and at most 1, or epochs is below 1."""
    if not 0 < share <= 1:
        raise ValueError(f"share of the labels must be above 0 and at most 1, got {share}")
    if epochs is not None and epochs < 1:
        raise ValueError(f"{option('epochs')} of fine-tuning must be 1 or more, got {epochs}")


def default_epochs(share: float, batches: int) -> int:
    """Return the epochs for a share of the labels: fewer images, more often.

    Args:
        share: Share of the labels.
        batches: Batches in an epoch.

    Returns:
        3 / sqrt(share), or as many as `LEAST_STEPS` need.
    """
    return max(round(EPOCHS / math.sqrt(share)), math.ceil(LEAST_STEPS / max(1, batches)))


def tuning_plan(labels: Tensor, share: float, epochs: int | None) -> tuple[int, int]:
    """Return the epochs and the steps that `tune` takes.

    Args:
        labels: Classes of train, (N,), -1 for none.
        share: Share of the labels.
        epochs: Epochs, or None for the default.
    """
    counts = labels[labels >= 0].bincount().tolist()
    images = sum(_images_of_share(count, share) for count in counts if count)
    batches = images // _batch_size(images, BATCH_SIZE)
    epochs = epochs or default_epochs(share, batches)
    return epochs, epochs * batches


def _images_of_share(count: int, share: float) -> int:
    return max(1, round(share * count))


def _batch_size(images: int, most: int) -> int:
    """Return the size of a batch, such that an epoch of a small share has a few steps too."""
    return min(most, max(2, images // 4))


def _check_finite(losses: list[Tensor], steps: int, lr: float) -> float:
    """Return the mean of losses, sums over a batch, of which the last is that of step `steps`.

    Raises:
        FloatingPointError: If one is not finite.
    """
    values = all_reduce_(torch.stack(losses)).tolist()
    for step, loss in enumerate(values, steps - len(losses) + 1):
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss of fine-tuning is {loss} at step {step}: lower {option('lr')} {lr:g}"
            )
    return math.fsum(values) / len(values)


def _share_of_classes(labels: Tensor, share: float, seed: int) -> Tensor:
    """Return the rows of a share of every class, in rising order; labels of -1 are no class."""
    order = torch.randperm(len(labels), generator=seeded_generator(seed, "share of labels"))
    kept = []
    for label in labels[labels >= 0].unique():
        of_class = order[labels[order] == label]
        kept.append(of_class[: _images_of_share(len(of_class), share)])
    return torch.cat(kept).sort().values


def _with_classifier(model: SSLModel | nn.Module, classes: int, seed: int) -> nn.Module:
    backbone = model.backbone if isinstance(model, SSLModel) else model
    net = copy.deepcopy(backbone).requires_grad_(True).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "classifier"))
        net.cpu().reset_classifier(classes)
    device = next(model.parameters()).device
    return net.to(device, memory_format=torch.channels_last)


def _crops(
    crops: MultiView,
    batch: Batch,
    local: BatchShard,
    device: torch.device,
    seed: int,
    step: int,
) -> Tensor:
    """Return this process's crops of a batch, (n, C, S, S), drawn for the whole batch."""
    generator = seeded_generator(seed, "fine-tuning crops", step)
    draws = crops.draw(local.batch_size, generator)
    mine = local.places[batch.rows]
    draws = {name: values[:, mine] for name, values in draws.items()}
    plan = crops.plan(draws, batch.sizes, batch.starts, channels=batch.channels)
    return crops.render(to_device(batch.pixels, device), plan, channels=batch.channels)[0]

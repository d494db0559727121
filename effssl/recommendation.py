"""Recommendation of a configuration for a dataset and a time budget."""

from __future__ import annotations

import dataclasses
import math
import shlex
import time

from effssl.hints import option
from effssl.training.config import PretrainConfig

SMALL_IMAGES = 64
"""Side in pixels up to which a backbone must not downsample in its first layers."""
BACKBONES = {
    True: (
        ("test_convnext2", 4),
        ("convnext_zepto_rms", 4),
        ("resnet18_cifar", None),
        ("resnet50_cifar", None),
    ),
    False: (("resnet10t", None), ("resnet18", None), ("resnet50", None)),
}
"""Backbones and patch sizes for small images (True) or not, cheapest first."""
ENOUGH_EPOCHS, ENOUGH_VIEWS = 10, 160_000
"""Epochs and views that a backbone must have time for to be chosen."""
MOST_EPOCHS, MOST_IMAGES_SEEN = 1000, 5_000_000
"""Upper bounds of a schedule: the paper trains 100 epochs of 50,000 images on CIFAR-10."""
FEW_IMAGES = 20_000
"""Images up to which the batch is 64, with the learning rate of the runs on aligned objects."""
_RESTS_ON = (
    "4 views, 256 wide: in arXiv:2312.10725 they reach the accuracy of 2 views, 8192 wide, in half "
    "the time, with ResNets on CIFAR-10, STL-10 and ImageNet-100. In results.csv 128 wide does "
    "so, too, on objects that lie anywhere in the image, and most of the time is saved by the "
    "width; where all lie alike it is undecided.",
    "bt, as in the paper. In results.csv no loss is best everywhere. On 10,000 small objects that "
    "lie anywhere in the image bt is 18 points above spectral by linear probe with a ConvNeXt, "
    "while with test_resnet, as fast as test_convnext2, coding_rate is 5 points above bt. Where "
    "all objects lie alike, spectral is as good as bt by linear probe and 6 points better by k-NN.",
    "Batch and learning rate are those of the runs on aligned objects. Other images may want "
    "others: compare with effssl evaluate.",
)
_CPU_PIXELS = 2**17  # pixels of a timed step: about a second


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Result of `recommend`; ``str`` gives the command and the reasons.

    Attributes:
        config: Configuration for `effssl.pretrain`, without a dataset.
        views_per_s: Measured training speed, from which epochs follow.
        minutes: Estimated training time.
        reasons: Sentences on the choices and their evidence.
    """

    config: PretrainConfig
    views_per_s: float
    minutes: float
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        flags = [*self.config.flags(), "--dataset", "path/to/images"]
        return "\n".join([shlex.join(["effssl", "pretrain", *flags]), *self.reasons])


def recommend(
    *, images: int, image_size: int, budget_minutes: float, in_chans: int = 3, cpu: bool = False
) -> Recommendation:
    """Choose backbone, views, width, batch and epochs for a dataset and a time budget.

    The backbone is the largest of `BACKBONES` that sees the images `ENOUGH_EPOCHS` times, and
    `ENOUGH_VIEWS` views, within the budget. The speed of each is measured in a few steps on noise,
    cheapest first until one is too slow: seconds on a GPU, up to a minute on a CPU.

    Args:
        images: Number of unlabeled images, 2 or more.
        image_size: Their side in pixels.
        budget_minutes: Minutes of training on this machine.
        in_chans: Channels of the images.
        cpu: Whether to train on the CPU even if there is a GPU.

    Raises:
        ValueError: If an argument is out of bounds, or the budget is too small for one step.
    """
    for name, value, least in (
        ("images", images, 2),
        ("image_size", image_size, 8),
        ("in_chans", in_chans, 1),
    ):
        if value < least:
            raise ValueError(f"{option(name)} must be {least} or more; got {value}")
    if not 0 < budget_minutes < math.inf:
        raise ValueError(f"{option('budget_minutes')} must be above 0; got {budget_minutes}")

    base = _base(images, image_size, in_chans, cpu)
    enough = max(ENOUGH_VIEWS, ENOUGH_EPOCHS * images * base.views)
    chosen, speed, in_time = None, 0.0, False
    for backbone, patch_size in BACKBONES[image_size <= SMALL_IMAGES]:
        config = dataclasses.replace(base, backbone=backbone, patch_size=patch_size)
        found = training_speed(config)
        has_time = found * 60 * budget_minutes >= enough
        if has_time or chosen is None:
            chosen, speed, in_time = config, found, has_time
        if not has_time:
            break
    return _scheduled(chosen, speed, images, budget_minutes, in_time)


def training_speed(config: PretrainConfig) -> float:
    """Measure training steps on noise, in views per second; 0 if a step runs out of memory."""
    import torch

    from effssl.losses import create_loss
    from effssl.model import create_model
    from effssl.training._launch import mixed_precision
    from effssl.views import MultiView

    device = torch.device("cpu")
    if not config.cpu and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
    images = config.batch_size
    if device.type == "cpu":  # its speed hardly depends on the batch
        images = min(images, max(2, _CPU_PIXELS // config.img_size**2))
    half = mixed_precision(config.precision, device.type == "cpu") == "bf16"
    options = config.view.over(config.preset)
    multi_view = MultiView(options, views=config.views, size=config.img_size)
    loss_fn = create_loss(config.loss, dim=config.projector_dim)
    shape = (images, config.in_chans, config.img_size, config.img_size)
    seconds = []
    try:
        with torch.random.fork_rng(devices=[]):
            model = create_model(
                config.backbone,
                projector_dim=config.projector_dim,
                in_chans=config.in_chans,
                img_size=config.img_size,
                patch_size=config.patch_size,
            ).to(device, memory_format=torch.channels_last)
            pixels = torch.randint(0, 256, shape, dtype=torch.uint8).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for _ in range(4):
            started = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                z = model(multi_view(pixels).flatten(0, 1), project=True)
            loss_fn(z.unflatten(0, (config.views, images))).backward()
            optimizer.step()
            optimizer.zero_grad()
            z.sum().item()  # wait for the device
            seconds.append(time.perf_counter() - started)
    except torch.OutOfMemoryError:
        return 0.0
    return images * config.views / min(seconds[1:])  # the first step includes warm-up


def _base(images: int, image_size: int, in_chans: int, cpu: bool) -> PretrainConfig:
    """Choose everything except backbone and epochs."""
    size = min(224, 32 * math.ceil(image_size / 32))
    presets = {1: "grey", 3: "cifar" if size == 32 else "stl" if size <= 96 else "imagenet"}
    few = images <= FEW_IMAGES
    return PretrainConfig(
        in_chans=in_chans,
        img_size=size,
        preset=presets.get(in_chans, "multispectral"),
        views=4,
        projector_dim=256,
        batch_size=min(images, 64 if few else 128 if images <= 200_000 else 256),
        lr=1.5e-3 if few else 1e-3,
        cpu=cpu,
    )


def _scheduled(
    config: PretrainConfig, speed: float, images: int, budget_minutes: float, in_time: bool
) -> Recommendation:
    """Choose the epochs that fit the budget, and give the reasons.

    ``in_time`` tells whether the backbone has time for what `recommend` asks of it.
    """
    of_epoch = images // config.batch_size
    per_step = config.batch_size * config.views
    fit = int(speed * 60 * budget_minutes / per_step)
    if fit < 1:
        raise ValueError(
            f"{budget_minutes:g} minutes are less than a step of {config.batch_size} images at "
            f"{speed:,.0f} views a second: give a larger {option('budget_minutes')}"
        )
    most = min(MOST_EPOCHS, max(100, MOST_IMAGES_SEEN // images))
    epochs = min(most, fit // of_epoch)
    if epochs:
        config = dataclasses.replace(config, epochs=epochs)
        steps = epochs * of_epoch
        length = f"{epochs} epochs" + (": more is not known to help" if epochs == most else " fit")
    else:
        config = dataclasses.replace(config, epochs=1, max_steps=fit)
        steps, length = fit, f"{fit} steps fit, which see {fit / of_epoch:.0%} of the images"
    minutes = steps * per_step / speed / 60
    enough = f"sees all of them {ENOUGH_EPOCHS} times, and {ENOUGH_VIEWS:,} views, in the budget"
    why = f"the largest that {enough}; a rule of thumb"
    if not in_time:
        why = f"the fastest, as none {enough}: expect little of it, or give it more minutes"
    reasons = (
        f"{config.backbone}, {config.img_size} px: of the backbones for such images {why}.",
        f"{length}: {minutes:.3g} minutes at {speed:,.0f} views a second, as measured here without "
        "reading images.",
        *_RESTS_ON,
    )
    return Recommendation(config, speed, minutes, reasons)

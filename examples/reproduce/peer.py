"""Pretrain with lightly 1.6.0 on the images, backbone and core of the runs of effssl.

    OMP_NUM_THREADS=1 taskset -c 0 python examples/reproduce/peer.py            # the curve
    OMP_NUM_THREADS=1 taskset -c 0 python examples/reproduce/peer.py --choose 4 # the recipe

The program is lightly's example of Barlow Twins (examples/pytorch/barlowtwins.py): its
`BYOLTransform` for images of 32 px on PIL images, through a torch `DataLoader`, its
`BarlowTwinsProjectionHead` and its `BarlowTwinsLoss`. Changed are: images have one channel,
so that views are normalized with one mean and std, those of effssl's runs, and no saturation, hue
or loss of color is drawn; images are decoded once, before the clock starts; the network is stored
channels last, as effssl's is; and there is a cosine schedule with a warm-up. The settings of
`Recipe` are chosen by ``--choose``, by linear probe on images held out of train. Those of effssl's
runs beside it were set before, and not chosen so.

The rows go to the table of run.py, measured as its rows are. ``minutes`` is the time of training
alone. A run with a row is not run again; a killed one starts anew. Several copies share the runs.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
import math
import shlex
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from experiments import Scale
from run import (
    RESULTS,
    labeled,
    lidar_of,
    make_row,
    measure,
    read_results,
    software,
    untrained,
)
from scales import CHOICE, MOVED
from timm.layers import RmsNorm, RmsNorm2d
from torch import nn
from torch.backends.cpu import get_cpu_capability
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image

import effssl
from effssl import cli
from effssl.data import Source
from effssl.optim import create_optimizer
from effssl.seeding import derived_seed

VERSION = "1.6.0"
LOCKS = Path("runs/reproduce/lightly")
PARTS = {
    "cpu": MOVED,
    "choice": next(p for p in CHOICE if p.reference.dataset == MOVED.reference.dataset),
}
Optimizer = Literal["adamw", "sgd", "lars"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings that are chosen on held-out images.

    The defaults are what ``--choose 4`` found.

    Attributes:
        optimizer: adamw as effssl has it, sgd as in lightly's CIFAR-10 benchmark, or lars as in its
            ImageNet benchmark, with their weight decay.
        lr: Learning rate after warm-up.
        crop: Smallest share of the image area that a view shows.
        width: Width of the three layers of the projector.
        weight: Weight of the off-diagonal term.
        solarize: Share of the second views that are solarized.
    """

    optimizer: Optimizer = "adamw"
    lr: float = 4e-3
    crop: float = 0.6
    width: int = 512
    weight: float = 5e-3
    solarize: float = 0.0


START = Recipe("adamw", 2e-3, 0.08, 2048, 5e-3, 0.2)
"""What lightly's example has, but for optimizer and learning rate, which are effssl's."""
GRID = {
    "width": (2048, 512, 128, 64),
    "crop": (0.08, 0.2, 0.4, 0.6, 0.8),
    "weight": (5e-3, 0.04),
    "solarize": (0.2, 0.0),
    "lr": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
}
"""Values that the choice tries, one setting after the other."""
OWN = (("sgd", 0.06), ("lars", 0.1))
"""Optimizers and learning rates of lightly's benchmarks for a batch of 128, tried last."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, and the images that it is measured on."""

    scale: str
    recipe: Recipe
    epochs: int
    seed: int
    workers: int = 0

    @property
    def command(self) -> str:
        """The command line that makes the run again, whatever the defaults are by then."""
        values = {"scale": self.scale, "epochs": self.epochs, "seeds": self.seed}
        values |= dataclasses.asdict(self.recipe) | {"workers": self.workers}
        flags = [word for name, value in values.items() for word in (f"--{name}", str(value))]
        return shlex.join(["python", "examples/reproduce/peer.py", *flags])


@dataclasses.dataclass(frozen=True)
class Options:
    """Train with lightly, where the table has no row of the run yet."""

    scale: Literal["cpu", "choice"] = "cpu"
    """cpu trains on train and measures on test, choice on two parts of train."""
    epochs: tuple[int, ...] = (1, 2, 4, 8)
    """Passes over the images, each a run with a schedule of its own."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights, order and views."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = Recipe()
    workers: int = 0
    """Processes of the loader that make views; 0 is for one core."""
    choose: int | None = None
    """Choose the recipe by runs of so many epochs on images held out of train, and print it."""
    results: Path = RESULTS
    """Path of the table."""

    def runs(self) -> list[Run]:
        """Return the runs, all of one seed before those of the next."""
        return [
            Run(self.scale, self.recipe, epochs, seed, self.workers)
            for seed in self.seeds
            for epochs in self.epochs
        ]


class Pictures(Dataset):
    """Images as PIL images in memory, changed by a transform."""

    def __init__(self, source: Source, transform: Callable) -> None:
        self.pictures = [to_pil_image(image) for image, _ in source]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> list[torch.Tensor]:
        return self.transform(self.pictures[row])


def check_lightly() -> None:
    """Raise ValueError in one line if lightly is missing or another version."""
    if importlib.util.find_spec("lightly") is None:
        found = "is not installed"
    elif (version := importlib.metadata.version("lightly")) != VERSION:
        found = f"is here as {version}"
    else:
        return
    raise ValueError(
        f"this trains with lightly {VERSION}, which {found}: pip install lightly==1.6.0"
    )


def create_views(size: int, recipe: Recipe, mean: list[float], std: list[float]) -> Callable:
    """Return lightly's transform from a gray image to two views."""
    from lightly.transforms import BYOLTransform, BYOLView1Transform, BYOLView2Transform

    options = {
        "input_size": size,
        "min_scale": recipe.crop,
        "cj_sat": 0.0,
        "cj_hue": 0.0,
        "random_gray_scale": 0.0,
        "gaussian_blur": 0.0,  # as in lightly's examples for images of 32 px
        "normalize": {"mean": mean, "std": std},
    }
    second = BYOLView2Transform(solarization_prob=recipe.solarize, **options)
    return BYOLTransform(BYOLView1Transform(**options), second)


def optimizer_of(recipe: Recipe, model: nn.Module, decay: float) -> torch.optim.Optimizer:
    """Return the optimizer; ``decay`` is the weight decay of adamw."""
    from lightly.models.utils import get_weight_decay_parameters
    from lightly.utils.lars import LARS

    if recipe.optimizer == "adamw":
        return create_optimizer(model, "adamw", recipe.lr, decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), recipe.lr, momentum=0.9, weight_decay=5e-4)
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, RmsNorm, RmsNorm2d)
    decayed, others = get_weight_decay_parameters([model], norm_layers=norms)
    slower = {"params": others, "weight_decay": 0.0, "lr": recipe.lr * 0.0048 / 0.2}
    return LARS([{"params": decayed}, slower], recipe.lr, momentum=0.9, weight_decay=1.5e-6)


def train(run: Run, part: Scale, model: effssl.SSLModel) -> tuple[int, float]:
    """Train the backbone of a model; return the number of steps and the minutes they took.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    from lightly.loss import BarlowTwinsLoss
    from lightly.models.modules import BarlowTwinsProjectionHead
    from lightly.utils.scheduler import CosineWarmupScheduler

    config, width = part.reference, run.recipe.width
    head = BarlowTwinsProjectionHead(model.num_features, width, width)
    net = nn.Sequential(model.backbone, head).to(memory_format=torch.channels_last).train()
    mean, std = (list(model.backbone.pretrained_cfg[name]) for name in ("mean", "std"))
    views = create_views(config.img_size, run.recipe, mean, std)
    pictures = Pictures(labeled(config, config.split), views)
    # lightly's transforms draw from numpy too, which the loader seeds in its processes alone
    np.random.seed(derived_seed(run.seed, "views") % 2**32)  # noqa: NPY002
    torch.manual_seed(derived_seed(run.seed, "views"))
    loader = DataLoader(
        pictures, config.batch_size, shuffle=True, drop_last=True, num_workers=run.workers
    )
    criterion = BarlowTwinsLoss(lambda_param=run.recipe.weight)
    steps = run.epochs * len(loader)
    optimizer = optimizer_of(run.recipe, net, config.weight_decay)
    schedule = CosineWarmupScheduler(optimizer, warmup_epochs=steps // 10, max_epochs=steps)
    started = time.perf_counter()
    for _ in range(run.epochs):
        for first, second in loader:
            loss = criterion(net(first), net(second))
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"the loss of {run.recipe} is {loss.item()}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return steps, (time.perf_counter() - started) / 60


def first_model(part: Scale, seed: int) -> effssl.SSLModel:
    """Return the model whose backbone is trained, with which effssl's run of this seed begins."""
    torch.manual_seed(derived_seed(seed, "weights"))
    return untrained(part.reference)


def result_of(run: Run) -> dict:
    """Train and measure; return what is in the row of the table beside `key_of`."""
    print(run.command, flush=True)
    part = PARTS[run.scale]
    config = dataclasses.replace(part.reference, seed=run.seed)
    model = first_model(part, run.seed)
    steps, minutes = train(run, part, model)
    measured = measure(model.eval(), config, part, effssl.create_transform(model))
    images = len(labeled(config, config.split))
    return measured | {
        "lidar": lidar_of(model, config, part),
        "weight": run.recipe.weight,
        "form": "pairs",
        "images": images,
        "epochs": float(run.epochs),
        "steps": steps,
        "views_seen": steps * config.batch_size * 2,
        "minutes": round(minutes, 2),
        "device": f"{get_cpu_capability()}, {torch.get_num_threads()} threads",
    }


def key_of(run: Run) -> dict:
    """Return what tells the row of a run from others."""
    return {
        "scale": run.scale,
        "dataset": PARTS[run.scale].reference.dataset,
        "encoder": "lightly",
        "model": f"{PARTS[run.scale].reference.backbone}-lightly-p{run.recipe.width}",
        "seed": run.seed,
        "command": run.command,
    }


def row_of(run: Run, results: Path, *, wait: bool) -> dict[str, str] | None:
    """Return the row of a run, made if there is none.

    It is None if the loss was not finite, or, unless ``wait``, another copy makes it.
    """
    lock = LOCKS / f"{zlib.crc32(run.command.encode()):08x}.lock"
    make = functools.partial(result_of, run)
    make_row(key_of(run) | software(), make, results, lock, wait=wait)
    rows = (row for row in read_results(results) if row["command"] == run.command)
    return next(rows, None)


def choose(epochs: int, results: Path, workers: int) -> Recipe:
    """Return the recipe of the best linear probe on held-out images, one setting after another."""

    def linear(recipe: Recipe) -> float:
        run = Run("choice", recipe, epochs, 0, workers)
        row = row_of(run, results, wait=True)
        found = -math.inf if row is None else float(row["linear"])
        print(f"{found:.2f} % with {recipe}", flush=True)
        return found

    best = START
    for name, values in GRID.items():
        best = max((dataclasses.replace(best, **{name: value}) for value in values), key=linear)
    others = [dataclasses.replace(best, optimizer=name, lr=lr) for name, lr in OWN]
    return max([best, *others], key=linear)


def main(options: Options) -> None:
    """Make the runs that have no row yet, or choose the recipe."""
    check_lightly()
    if options.choose is not None:
        print(f"chosen: {choose(options.choose, options.results, options.workers)}")
        return
    for run in options.runs():
        row_of(run, options.results, wait=False)


if __name__ == "__main__":
    cli.run(lambda: main(tyro.cli(Options)))

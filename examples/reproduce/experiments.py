"""The experiments that test the claims of the method, as configurations.

Agrawal et al., "Harnessing small projectors and multiple views for efficient vision pretraining",
NeurIPS 2024, https://arxiv.org/abs/2312.10725, claim that small projectors suffice if the weight of
orthogonality follows their width, that more views converge faster, and that more views replace
images. E is the number of epochs of the reference, which has 2 views of all images and a projector
8192 wide. Every run has a cosine schedule of its own length and is measured after its last epoch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

from effssl import PretrainConfig
from effssl.loss_specs import LOSSES, least_images
from effssl.loss_weights import barlow_twins_lambd

REFERENCE_WIDTH = 8192
LOSS_WIDTHS = (64, 256)
LOSS_ROWS = {name: {"loss": name} for name in LOSSES}
LOSS_ROWS["wmse, 1024 hidden"] = {"loss": "wmse", "projector_hidden": 1024}
RESNET = {"backbone": "test_resnet", "patch_size": None}
"""Backbone of the first command of README.md."""
MAY_COLLAPSE = "wmse"  # without the wide hidden layer of its authors; no part of a pooled spread


@dataclasses.dataclass(frozen=True)
class Scale:
    """Data, backbone and schedule shared by the runs of one scale.

    Attributes:
        reference: Configuration of 2 views and the widest projector, for E epochs.
        images: Number of images in the training split.
        test_split: Labeled images, on which everything is measured and nothing is chosen.
        train_split: Labeled images of the linear probe, the neighbors and the few shots.
        width_batch_size: Batch size of the projector sweep.
        studies: Names of the studies.
        widths: Widths of the projector sweep, rising to that of the reference.
        small_width: Width of the projector where nothing else is said.
        tuned: Learning rate and weight of the loss by width of the projector, where held-out
            images chose them for each width.
        supervised_epochs: Epochs of the same backbone with all labels, the ceiling; 0 for none.
        lengths: Numbers of views, and their epochs, counted in E, in the study of views.
    """

    reference: PretrainConfig
    images: int
    test_split: str
    width_batch_size: int
    studies: tuple[str, ...] = ("views", "width", "data", "local", "losses", "form")
    widths: tuple[int, ...] = (64, 256, 1024, REFERENCE_WIDTH)
    small_width: int = 256
    tuned: Mapping[int, Mapping[str, float]] = dataclasses.field(default_factory=dict, hash=False)
    train_split: str = "train"
    supervised_epochs: int = 0
    lengths: tuple[tuple[int, tuple[float, ...]], ...] = (
        (2, (1, 1 / 2, 2)),
        (4, (1, 1 / 2, 1 / 4)),
        (8, (1 / 4, 1 / 2)),
    )

    @property
    def wide(self) -> PretrainConfig:
        """The widest projector, with settings of its own if they were chosen."""
        return self.tuned_run(REFERENCE_WIDTH) if self.tuned else self.reference

    def tuned_run(self, dim: int) -> PretrainConfig:
        """Return a run with 2 views and the settings that were chosen for its width."""
        return self.run(projector_dim=dim, **self.tuned[dim])

    def run(self, *, views: int = 2, epochs: float = 1, **fields) -> PretrainConfig:
        """Return the reference with a small projector and these fields; epochs count in E."""
        fields = {"projector_dim": self.small_width, "views": views} | fields
        epochs *= self.reference.epochs
        fields["epochs"] = max(1, round(epochs))
        of_epoch = self.images // self.reference.batch_size
        if (steps := round(epochs * of_epoch)) < of_epoch:
            fields["max_steps"] = steps
        return dataclasses.replace(self.reference, **fields)

    def share(self, part: int, *, views: int) -> PretrainConfig:
        """Return a run on one image in ``part``, with as many views in all as the reference."""
        batch = self.reference.batch_size
        images = self.images // part
        steps = self.reference.epochs * (self.images // batch) * 2 // views
        return self.run(
            views=views,
            split=f"{self.reference.split}[:{images}]",
            epochs=math.ceil(steps / (images // batch)) / self.reference.epochs,
            max_steps=steps,
        )


def width(scale: Scale) -> Iterator[PretrainConfig]:
    """Do small projectors suffice, with the weight of their width, and with that of the widest?"""
    batch = {"batch_size": scale.width_batch_size}
    for dim in scale.widths:
        yield scale.run(projector_dim=dim, **batch)
    fixed = barlow_twins_lambd(REFERENCE_WIDTH)
    for dim in scale.widths[:-1]:
        yield scale.run(projector_dim=dim, loss_weight=fixed, **batch)


def tuned(scale: Scale) -> Iterator[PretrainConfig]:
    """Do small projectors suffice where each width has the settings that suit it best?"""
    for dim in scale.tuned:
        yield scale.tuned_run(dim)


def weight(scale: Scale) -> Iterator[PretrainConfig]:
    """Is the weight of the width too small? Try 4 times as much, at one width also 16 and 64."""
    for dim in scale.widths[:-1]:
        for factor in (4, 16, 64) if dim == scale.small_width else (4,):
            more = round(factor * barlow_twins_lambd(dim), 5)
            yield scale.run(projector_dim=dim, loss_weight=more, batch_size=scale.width_batch_size)


def views(scale: Scale) -> Iterator[PretrainConfig]:
    """Do more views converge faster, at equal epochs (equal steps) and at equal views?"""
    yield scale.reference
    for count, lengths in scale.lengths:
        for epochs in lengths:
            yield scale.run(views=count, epochs=epochs)


def local(scale: Scale) -> Iterator[PretrainConfig]:
    """Do small crops beside two views do as well as more views?"""
    small = {"local_size": scale.reference.img_size // 2, "local_scale": (0.1, 0.4)}
    for epochs in (1, 1 / 2):
        yield scale.run(local_views=6, epochs=epochs, **small)
    for views in (2, 4):
        yield scale.run(views=views)


def length(scale: Scale) -> Iterator[PretrainConfig]:
    """Where does longer training stop to help, with 4 views?"""
    for doublings in range(-2, 5):
        yield scale.run(views=4, epochs=2**doublings)


def data(scale: Scale) -> Iterator[PretrainConfig]:
    """Do more views replace images, at equal views in all?"""
    yield scale.run()
    for part, counts in {2: (4, 2), 4: (8, 4, 2), 16: (8, 2)}.items():
        for count in counts:
            yield scale.share(part, views=count)


def form(scale: Scale) -> Iterator[PretrainConfig]:
    """Which loss is best: pairs of views, their mean, or the spectral loss behind both?"""
    yield scale.run(views=4)
    yield scale.run(views=4, multiview="mean")
    yield scale.run(views=4, loss="spectral")
    yield scale.run(views=2, loss="spectral")


def vicreg(scale: Scale) -> Iterator[PretrainConfig]:
    """Do more views help another loss?"""
    yield scale.run(loss="vicreg")
    for epochs in (1, 1 / 2):
        yield scale.run(views=4, epochs=epochs, loss="vicreg")


def longer(scale: Scale) -> Iterator[PretrainConfig]:
    """Does longer training still help?"""
    yield scale.run(views=4, epochs=4, loss="spectral")


def with_loss(scale: Scale, label: str, dim: int) -> PretrainConfig | None:
    """Return the run with a loss of `LOSS_ROWS`; None if it takes larger batches at this width."""
    fields = LOSS_ROWS[label]
    if least_images(fields["loss"], dim) > scale.reference.batch_size:
        return None
    return scale.run(views=4, projector_dim=dim, **fields)


def losses(scale: Scale) -> Iterator[PretrainConfig]:
    """Which loss is best, with 4 views of an image and equal epochs, at each of two widths?"""
    for dim in LOSS_WIDTHS:
        yield from filter(None, (with_loss(scale, label, dim) for label in LOSS_ROWS))


def choice(scale: Scale) -> Iterator[PretrainConfig]:
    """Which settings does the first command take, by images held out of train?"""
    for name in ("bt", "vicreg", "spectral", "simclr", "coding_rate"):
        for dim in (128, 256):
            yield scale.run(views=4, loss=name, projector_dim=dim)
    for lr in (1e-3, 4e-3):
        yield scale.run(views=4, lr=lr)
    for lr in (2e-3, 4e-3):
        yield scale.run(views=4, batch_size=64, lr=lr)
    yield scale.run(views=4, epochs=3 / 2)
    resnet = RESNET | {"views": 4, "batch_size": 64}
    for name in ("bt", "vicreg", "spectral"):
        yield scale.run(loss=name, **resnet)
    yield scale.run(loss="coding_rate", projector_dim=256, **resnet)
    yield scale.run(lr=4e-3, **resnet)
    for name in ("bt", "spectral"):
        for lr in (2e-3, 4e-3):
            yield scale.run(loss=name, lr=lr, epochs=2, **resnet)
    longer = resnet | {"epochs": 2, "lr": 4e-3, "projector_dim": 256}
    for changes in (
        {},
        {"projector_dim": 128},
        {"projector_dim": 512},
        {"epochs": 3},
        {"lr": 8e-3},
        {"lr": 16e-3},
        {"lr": 8e-3, "batch_size": 128},
    ):
        yield scale.run(loss="coding_rate", **longer | changes)
    yield scale.run(loss="simclr", **longer)
    convnext = {"backbone": "test_convnext2", "views": 4, "batch_size": 64, "epochs": 2}
    for name, dim in (("coding_rate", 256), ("bt", 128), ("spectral", 128)):
        yield scale.run(loss=name, projector_dim=dim, **convnext)


def tuning(scale: Scale) -> Iterator[PretrainConfig]:
    """Which learning rate and weight suit each width of the projector, by held-out images?"""
    for lr in (1e-3, 2e-3, 4e-3, 8e-3):
        for dim in (scale.small_width, REFERENCE_WIDTH):
            yield scale.run(projector_dim=dim, lr=lr)
    # more dimensions than images in a batch stay correlated by chance
    widths = {2e-3: (256, 512, 1024, 2048, REFERENCE_WIDTH), 8e-3: (REFERENCE_WIDTH,)}
    for lr, dims in widths.items():
        for dim in dims:
            for factor in (1, 1 / 4, 1 / 16):
                weight = None if factor == 1 else round(factor * barlow_twins_lambd(dim), 6)
                yield scale.run(projector_dim=dim, lr=lr, loss_weight=weight)


def first(scale: Scale) -> Iterator[PretrainConfig]:
    """What does the first command of README.md reach?"""
    yield scale.run(
        loss="coding_rate", projector_dim=256, views=4, batch_size=64, epochs=2, lr=8e-3
    )


Study = Literal[
    "views",
    "width",
    "data",
    "form",
    "weight",
    "vicreg",
    "longer",
    "local",
    "length",
    "losses",
    "choice",
    "tuning",
    "tuned",
    "first",
]
STUDIES: dict[str, Callable[[Scale], Iterator[PretrainConfig]]] = {
    study.__name__: study
    for study in (
        views,
        width,
        data,
        form,
        weight,
        vicreg,
        longer,
        local,
        length,
        losses,
        choice,
        tuning,
        tuned,
        first,
    )
}
_ONE_SEED = ("weight", "vicreg", "longer", "length")


def plan(
    scale: Scale, studies: Iterable[str] = STUDIES, seeds: Iterable[int] = (0, 1, 2)
) -> list[PretrainConfig]:
    """Return every run of the studies once, all of one seed before those of the next."""
    runs: dict[PretrainConfig, None] = {}
    for seed in seeds:
        for name in scale.studies:
            if name in studies and (seed == 0 or name not in _ONE_SEED):
                more = [dataclasses.replace(run, seed=seed) for run in STUDIES[name](scale)]
                runs |= dict.fromkeys(more)
    return list(runs)

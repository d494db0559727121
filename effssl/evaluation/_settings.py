"""Settings of an evaluation, and the sentences that describe its protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from effssl.evaluation._device import Precision
from effssl.evaluation._encoders import BASELINES, Baselines
from effssl.evaluation.fewshot import C
from effssl.evaluation.finetune import BATCH_SIZE, WEIGHT_DECAY, check_tuning, tuning_plan
from effssl.views.options import ViewOptions

PROTOCOLS = ("knn", "linear", "fewshot", "finetune", "spectrum")


@dataclass(frozen=True)
class Vote:
    """Arguments of `effssl.evaluation.knn`; k is None until the number of images is known."""

    k: Sequence[int] | None
    temperature: float


@dataclass(frozen=True)
class Shots:
    """Arguments of `effssl.evaluation.fewshot`; shots is None until the classes are known."""

    shots: Sequence[int] | None
    episodes: int

    def sentences(self) -> dict[str, str]:
        """Return the description of both classifiers for every number of shots, by their names."""
        found = {}
        for count in self.shots or ():
            nearest, linear = shots_names(count)
            how = (
                f"labels of every class: {count}, drawn {self.episodes} times from train, the same "
                "for all encoders; features centered with the mean of train and of unit length; "
                "mean and interval of 95 % over the draws"
            )
            found[nearest] = f"nearest class mean; {how}"
            found[linear] = f"logistic regression, C {C:g} in terms of scikit-learn; {how}"
        return found


@dataclass(frozen=True)
class Tuning:
    """Arguments of `effssl.evaluation.finetune`, with the shares of the labels to take."""

    shares: Sequence[float]
    epochs: int | None
    lr: float
    layer_decay: float | None

    def sentence(self, share: float, labels: Tensor) -> str:
        """Return the description of fine-tuning with a share of the labels, (N,), of train."""
        epochs, _ = tuning_plan(labels, share, self.epochs)
        decay = "" if self.layer_decay is None else f", layer-wise decay {self.layer_decay:g}"
        return (
            f"all weights trained on {100 * share:g} % of the labels of every class, {epochs} "
            f"epochs of AdamW, lr {self.lr:g}{decay}, weight decay {WEIGHT_DECAY:g}, batch "
            f"{BATCH_SIZE}, cosine schedule, random crops of 70 % or more and flips, last epoch"
        )


@dataclass(frozen=True)
class Settings:
    """Arguments of `effssl.evaluation.evaluate` other than model and images."""

    protocols: Sequence[str]
    seeds: Sequence[int]
    vote: Vote
    shots: Shots
    tuning: Tuning
    preset: str
    view: ViewOptions
    baselines: Baselines
    precision: Precision
    workers: int | None
    progress: bool

    @property
    def frozen_names(self) -> list[str]:
        """Names of the protocols that classify frozen features."""
        found = [knn_name(count) for count in self.vote.k or ()] if "knn" in self.protocols else []
        found += ["linear"] if "linear" in self.protocols else []
        return found + self.shot_names

    @property
    def shot_names(self) -> list[str]:
        """Names of the few-shot protocols."""
        counts = self.shots.shots or () if "fewshot" in self.protocols else ()
        return [name for i in (0, 1) for name in (shots_names(count)[i] for count in counts)]

    @property
    def tuned_names(self) -> list[str]:
        """Names of the protocols that fine-tune."""
        shares = self.tuning.shares if "finetune" in self.protocols else ()
        return [tuned_name(share) for share in shares]

    def tuning_steps(self, labels: Tensor) -> dict[str, int]:
        """Return the steps of every protocol of fine-tuning, by its name.

        Args:
            labels: Classes of train, (N,), -1 for none.
        """
        shares = self.tuning.shares if "finetune" in self.protocols else ()
        return {tuned_name(s): tuning_plan(labels, s, self.tuning.epochs)[1] for s in shares}

    def sentences(self, labels: Tensor) -> dict[str, str]:
        """Return the description of every protocol, by its name.

        Args:
            labels: Classes of train, (N,), -1 for none.
        """
        suffix = "" if self.precision == "fp32" else f", backbone in {self.precision} by autocast"
        sentences = {}
        if "knn" in self.protocols:
            for count in self.vote.k:
                sentences[knn_name(count)] = (
                    f"training images that vote: the nearest {count}, by weights of "
                    f"exp(cosine / {self.vote.temperature:g}), features not centered"
                )
        if "linear" in self.protocols:
            sentences["linear"] = (
                "logistic regression on standardized features by L-BFGS, its L2 weight chosen on "
                "20 % of train"
            )
        described = self.shots.sentences()
        sentences |= {name: described[name] for name in self.shot_names}
        if "finetune" in self.protocols:
            for share in self.tuning.shares:
                sentences[tuned_name(share)] = self.tuning.sentence(share, labels)
        return {name: sentence + suffix for name, sentence in sentences.items()}

    def check(self, *, labeled: bool) -> None:
        """Raise ValueError for what would otherwise fail after hours.

        Args:
            labeled: Whether there are training images.
        """
        for protocol in self.protocols:
            if protocol not in PROTOCOLS:
                names = ", ".join(PROTOCOLS)
                raise ValueError(f"unknown protocol {protocol!r}; protocols are {names}")
        if not self.protocols or not self.seeds:
            raise ValueError("one protocol and one seed, or more, are wanted")
        if self.baselines not in BASELINES:
            raise ValueError(
                f"unknown baselines {self.baselines!r}; they are {', '.join(BASELINES)}"
            )
        wanting = [protocol for protocol in self.protocols if protocol != "spectrum"]
        if wanting and not labeled:
            raise ValueError(f"{', '.join(wanting)}: labeled images of train are wanted")
        for share in self.tuning.shares:
            check_tuning(share, self.tuning.epochs)


def knn_name(count: int) -> str:
    """Return the name of the protocol of k-NN with so many neighbors."""
    return f"k-NN {count}"


def shots_names(count: int) -> tuple[str, str]:
    """Return the names of the few-shot protocols with so many labels a class."""
    return f"{count}-shot nearest mean", f"{count}-shot linear"


def tuned_name(share: float) -> str:
    """Return the name of the protocol of fine-tuning with a share of the labels."""
    return f"fine-tuned {100 * share:g} %"

"""Evaluation of a pretrained model beside raw pixels and the same backbone with random weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from effssl.data._broken import MAX_BROKEN
from effssl.data.sources import Source
from effssl.distributed import join, world_size
from effssl.evaluation._agreement import check_same, images_digest, model_digest
from effssl.evaluation._baselines import KeptBaselines, say_known
from effssl.evaluation._device import Precision, resolve_precision
from effssl.evaluation._encoders import ENCODERS as ENCODERS
from effssl.evaluation._encoders import Baselines, Encoder, encoders_of
from effssl.evaluation._encoders import random_twin as random_twin
from effssl.evaluation._episodes import EPISODES, resolve_shots
from effssl.evaluation._images import Images
from effssl.evaluation._measure import (
    VIEWS,
    FrozenResult,
    Invariance,
    measure_frozen,
    measure_invariance,
    measure_spectrum,
    measure_tuned,
)
from effssl.evaluation._settings import PROTOCOLS as PROTOCOLS
from effssl.evaluation._settings import Settings, Shots, Tuning, Vote
from effssl.evaluation.accuracy import Accuracy, majority_top1
from effssl.evaluation.finetune import LR
from effssl.evaluation.knn import TEMPERATURE, K, check_votes
from effssl.evaluation.linear import LinearProbe
from effssl.evaluation.spectrum import Spectrum
from effssl.model import SSLModel
from effssl.processes import check_main_guard
from effssl.views import MultiView, ViewOptions

SHARES = (1.0, 0.1, 0.01)


@dataclass(frozen=True)
class Evaluation:
    """Results of `evaluate`.

    Attributes:
        protocols: Description of each protocol, by its name, such as ``k-NN 20``, ``linear`` or
            ``fine-tuned 10 %``.
        accuracy: Results by encoder (``raw pixels``, ``random weights``, ``pretrained``) and
            protocol: one for each seed, or one alone where the seed makes no difference, as for
            k-NN and few labels except of random weights. Fine-tuning takes the first seed only,
            and raw pixels are not fine-tuned.
        seeds: Seeds of the random weights, of the held-out part of the linear probe, and of
            fine-tuning.
        labels: Label of every class in train, in rising order; empty if no labels were used.
        train_images: Number of labeled training images that could be read; 0 if there were none.
        test_images: Number of test images that could be read, of labeled ones if labels were used.
        digest: Digest of all labels.
        spectrum: Spectra of ``features`` and ``projections`` of test images; empty if not asked
            for.
        invariance: Likewise.
        precision: ``fp32``, or the type of autocast: ``bf16`` or ``fp16``.
        probe: Linear probe of the pretrained features with the first seed, if there is one.
        left_out: Number of ``unlabeled`` images of ``train`` and ``test``, which take no part where
            labels count, and of ``broken`` ones among the others, which take no part at all; where
            there are any.
        majority: Top-1 in percent of always guessing the most frequent class of train; None without
            labels.
        tuning_steps: Steps of every protocol of fine-tuning.
    """

    protocols: dict[str, str]
    accuracy: dict[str, dict[str, list[Accuracy]]]
    seeds: tuple[int, ...]
    labels: list[int]
    train_images: int
    test_images: int
    digest: str
    spectrum: dict[str, Spectrum]
    invariance: dict[str, Invariance]
    precision: str
    probe: LinearProbe | None = field(compare=False, repr=False)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    majority: float | None = None
    tuning_steps: dict[str, int] = field(default_factory=dict)


def evaluate(
    model: SSLModel,
    train: Source | None,
    test: Source,
    *,
    protocols: Sequence[str] = ("knn", "linear", "spectrum"),
    seeds: Sequence[int] = (0, 1, 2),
    k: Sequence[int] | None = None,
    temperature: float = TEMPERATURE,
    shots: Sequence[int] | None = None,
    episodes: int = EPISODES,
    shares: Sequence[float] = SHARES,
    epochs: int | None = None,
    lr: float = LR,
    layer_decay: float | None = None,
    preset: str = "imagenet",
    view: ViewOptions | None = None,
    baselines: Baselines = "all",
    baselines_file: str | os.PathLike | None = None,
    max_broken: float = MAX_BROKEN,
    precision: Precision = "auto",
    workers: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Evaluate a model, and by the same protocols raw pixels and random weights.

    Raw pixels are the model's input, resized to at most 32 x 32 and flattened. The model stays as
    it is.

    Args:
        model: Model, from `from_pretrained`.
        train: Labeled images; None for ``spectrum`` alone.
        test: Images to measure on; labeled, except for ``spectrum``.
        protocols: One or more of ``knn``, ``linear``, ``fewshot``, ``finetune`` and ``spectrum``.
        seeds: One or more; see `Evaluation`.
        k: Numbers of neighbors that vote; those of 1, 5, 20, 200 that train has if None.
        temperature: Temperature of the vote.
        shots: Numbers of labels a class of ``fewshot``; those of 1, 5, 10, 20 that every class of
            train has if None.
        episodes: Number of times that they are drawn, the same for all encoders, models and seeds.
        shares: Shares of the labels to fine-tune on.
        epochs: Epochs of fine-tuning; 3 / sqrt(share) if None, or as many as 100 steps need.
        lr: Learning rate of fine-tuning.
        layer_decay: Layer-wise decay of that learning rate.
        preset: Preset of the views of ``spectrum``; best that of the pretraining.
        view: Changes of that preset; likewise.
        baselines: ``none``, ``raw`` (pixels), ``random`` (weights) or ``all``.
        baselines_file: JSON file that keeps their results, so that they are measured once for the
            same images, settings and backbone; made if missing, and nothing is kept if None.
        max_broken: Largest share of broken images of train and of test, rounded up to whole images.
            They are named and left out.
        precision: Precision of the backbones, as for `extract_features`.
        workers: Number of decoding processes, as for `extract_features`.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If a protocol or the precision is unknown, an option out of bounds, or train and
            test do not fit together (`dense_labels`), more images are broken, or the processes were
            not given the same.
    """
    check_main_guard("effssl.evaluation.evaluate")
    vote, tuning = Vote(k, temperature), Tuning(shares, epochs, lr, layer_decay)
    drawn = Shots(shots, episodes)
    settings = Settings(
        protocols,
        seeds,
        vote,
        drawn,
        tuning,
        preset,
        view or ViewOptions(),
        baselines,
        precision,
        workers,
        progress,
    )
    # to know images again, they may have to be read once
    file = None if baselines_file is None or baselines == "none" else Path(baselines_file)
    join(cpu=next(model.parameters()).device.type == "cpu")
    if world_size() > 1:
        check_same(
            {
                "models": model_digest(model),
                "training images": images_digest(train) if train is not None else "none",
                "test images": images_digest(test),
                "settings": f"{replace(settings, workers=None, progress=False)} {file is None}",
            }
        )
    settings.check(labeled=train is not None)
    if set(protocols) - {"spectrum"}:
        return _evaluate(model, Images.labeled(train, test, max_broken), settings, file)
    return _evaluate(model, Images.unlabeled(test, max_broken), settings, None)


def _evaluate(model: SSLModel, images: Images, settings: Settings, file: Path | None) -> Evaluation:
    size = model.backbone.pretrained_cfg["input_size"][-1]
    views = MultiView(settings.view.over(settings.preset), views=VIEWS, size=size)
    labels, test_labels = (x[x >= 0] for x in (images.train_labels, images.test_labels))
    vote = settings.vote
    if vote.k is None:
        vote = replace(vote, k=[count for count in K if count <= len(labels)])
    if "knn" in settings.protocols:
        check_votes(vote.k, vote.temperature, len(labels))
    shots = settings.shots
    if "fewshot" in settings.protocols:
        names = _names(images)
        shots = replace(shots, shots=resolve_shots(shots.shots, shots.episodes, labels, names))
    precision = resolve_precision(settings.precision, next(model.parameters()).device)
    settings = replace(settings, vote=vote, shots=shots, precision=precision)
    kept = KeptBaselines(file, model, images, settings)
    accuracy, frozen = _accuracy(model, images, settings, kept)
    spectra, invariance = {}, {}
    if "spectrum" in settings.protocols:
        spectra = measure_spectrum(model, images, frozen, settings)
        invariance = measure_invariance(model, images, views, settings)
    measured = {name for row in accuracy.values() for name in row}  # not k-NN of too few images
    return Evaluation(
        protocols={k: text for k, text in settings.sentences(labels).items() if k in measured},
        accuracy=accuracy,
        seeds=tuple(settings.seeds),
        labels=images.classes,
        train_images=len(labels) - len(images.train_broken or ()),
        test_images=_measured(images, accuracy),
        digest=_digest(labels, test_labels),
        spectrum=spectra,
        invariance=invariance,
        precision=precision,
        probe=frozen and frozen.probe,
        left_out=images.left_out(),
        majority=majority_top1(labels, test_labels) if images.train is not None else None,
        tuning_steps=settings.tuning_steps(labels),
    )


def _names(images: Images) -> dict[int, str]:
    """Return the names of the classes of train by their numbers, or their labels as text."""
    known = images.train.class_names
    return {i: known[label] if known else str(label) for i, label in enumerate(images.classes)}


def _accuracy(
    model: SSLModel, images: Images, settings: Settings, kept: KeptBaselines
) -> tuple[dict[str, dict[str, list[Accuracy]]], FrozenResult | None]:
    """Measure all encoders with labels; return also the result of the model's frozen features."""
    accuracy: dict[str, dict[str, list[Accuracy]]] = {}
    of_model = None
    *baselines, own = encoders_of(model, settings.baselines)
    known = _known(baselines, settings, kept)
    for encoder in (*baselines, own) if settings.frozen_names else ():
        found = known.get((encoder.name, "frozen"))
        if found is None:
            result = measure_frozen(model, encoder, images, settings)
            found = result.accuracy
            if encoder is own:
                of_model = result
            else:
                kept.keep(encoder, found)
            del result  # before the next encoder takes as much memory
        accuracy[encoder.name] = found
    for encoder in (*baselines, own) if settings.tuned_names else ():
        if not encoder.trainable:
            continue
        found = known.get((encoder.name, "tuned"))
        if found is None:
            found = measure_tuned(encoder, images, settings)
            if encoder is not own:
                kept.keep(encoder, found)
        accuracy[encoder.name] = accuracy.get(encoder.name, {}) | found
    return accuracy, of_model


def _measured(images: Images, accuracy: dict[str, dict[str, list[Accuracy]]]) -> int:
    """Return the number of test images that were read, of labeled ones if there are labels."""
    for results in accuracy.get("pretrained", {}).values():
        return len(results[0].correct)
    return len(images.test.dataset) - len(images.test_broken)


def _known(
    baselines: Sequence[Encoder], settings: Settings, kept: KeptBaselines
) -> dict[tuple[str, str], dict[str, list[Accuracy]]]:
    """Return what is known of baselines, by encoder and ``frozen`` or ``tuned``, and say so."""
    known, said = {}, {}
    for encoder in baselines:
        tuned = settings.tuned_names if encoder.trainable else []
        wanted = {"frozen": settings.frozen_names, "tuned": tuned}
        for kind, names in wanted.items():
            if (found := kept.find(encoder, names)) is not None:
                known[encoder.name, kind] = found
                said.setdefault(encoder.words, []).extend(names)
        every = len(settings.frozen_names) + len(tuned)
        if encoder.words in said and len(said[encoder.words]) == every:
            said[encoder.words] = []
    if said:
        words = (f"{of} ({', '.join(names)})" if names else of for of, names in said.items())
        say_known(words, kept.file)
    return known


def _digest(labels: Tensor, test_labels: Tensor) -> str:
    """Return a digest that tells datasets without a name apart, and nothing else about them."""
    both = [*labels.tolist(), -1, *test_labels.tolist()]
    return hashlib.sha256(json.dumps(both).encode()).hexdigest()[:16]

"""A pretrained model beside raw pixels and its own random initialisation, by the same protocols."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from effssl.data.sources import Source
from effssl.evaluation._device import Precision, resolve_precision
from effssl.evaluation.accuracy import Accuracy, dense_labels
from effssl.evaluation.features import extract_features, extract_views
from effssl.evaluation.finetune import (
    BATCH_SIZE,
    LR,
    WEIGHT_DECAY,
    check_tuning,
    default_epochs,
    finetune,
)
from effssl.evaluation.invariance import alignment, lidar, uniformity
from effssl.evaluation.knn import TEMPERATURE, K, check_votes, knn
from effssl.evaluation.linear import LinearProbe, linear_probe
from effssl.evaluation.spectrum import Spectrum, spectrum
from effssl.model import SSLModel, build_backbone
from effssl.seeding import derived_seed
from effssl.transform import create_transform
from effssl.views import MultiView

PROTOCOLS = ("knn", "linear", "finetune", "spectrum")
ENCODERS = ("raw pixels", "random initialisation", "pretrained")
SHARES = (1.0, 0.1, 0.01)
SPECTRUM_IMAGES = 10_000
_VIEWS, _VIEWED_IMAGES = 10, 1000
_PIXELS = 32


@dataclass(frozen=True)
class Invariance:
    """`lidar`, `alignment` and `uniformity` of random views of images.

    Attributes:
        images: Number of images.
        views: Views of each.
        preset: What the views look like.
        lidar: `effssl.evaluation.lidar`.
        alignment: `effssl.evaluation.alignment`.
        uniformity: `effssl.evaluation.uniformity`, of one view of each image.
    """

    images: int
    views: int
    preset: str
    lidar: float
    alignment: float
    uniformity: float


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        protocols: What the protocol of each kind of number is, in a sentence, by the name of the
            number, such as ``k-NN 20``, ``linear`` or ``fine-tuned 10 %``.
        accuracy: Of each encoder (``raw pixels``, ``random initialisation``, ``pretrained``) the
            numbers by name, one for each seed, or one alone where the seed makes no difference: of
            k-NN but for the random initialisation. Fine-tuning takes the first seed only, and
            raw pixels are not fine-tuned.
        seeds: Of the random initialisation, of what the linear probe holds out, and of fine-tuning.
        labels: The label of every class, in rising order; empty if no labels were used.
        train_images: Labelled images that were voted with and fitted to; 0 if there were none.
        test_images: Images that were classified, or looked at.
        digest: Of all labels.
        spectrum: Of ``features`` and ``projections`` of test; empty if it was not asked for.
        invariance: Likewise.
        precision: ``fp32``, or what modules computed in by autocast: ``bf16`` or ``fp16``.
        probe: The linear probe of the pretrained features and the first seed, if there was one.
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


def evaluate(
    model: SSLModel,
    train: Source | None,
    test: Source,
    *,
    protocols: Sequence[str] = ("knn", "linear", "spectrum"),
    seeds: Sequence[int] = (0, 1, 2),
    k: Sequence[int] | None = None,
    temperature: float = TEMPERATURE,
    shares: Sequence[float] = SHARES,
    epochs: int | None = None,
    lr: float = LR,
    layer_decay: float | None = None,
    preset: str = "imagenet",
    precision: Precision = "auto",
    workers: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure the model, and by the same protocols raw pixels and its random initialisation.

    Raw pixels are the model's input, resized to at most 32 x 32 and flattened. The random
    initialisation is the same backbone with fresh weights. The model stays as it is.

    Args:
        model: From `from_pretrained`.
        train: Labelled images of the protocols; ``spectrum`` alone needs none.
        test: Images on which everything is measured, and nothing is chosen; labelled, but for
            ``spectrum``.
        protocols: Of ``knn``, ``linear``, ``finetune`` and ``spectrum``.
        seeds: One or more; see `Evaluation`.
        k: Neighbours that vote; of 1, 5, 20, 200 those that train has if None.
        temperature: Of the vote.
        shares: Of the labels, for fine-tuning.
        epochs: Of fine-tuning; `default_epochs` of the share if None.
        lr: Of fine-tuning.
        layer_decay: Of fine-tuning.
        preset: What the views of ``spectrum`` look like; best that of the pretraining.
        precision: Of the backbones; see `extract_features`. What is not float32 is said in the
            protocols.
        workers: Processes that decode images, as `extract_features`.
        progress: Show progress bars.

    Raises:
        ValueError: If a protocol or the precision is unknown, an option out of its bounds, or train
            and test cannot be compared (`dense_labels`).
    """
    _check(protocols, seeds, train, shares, epochs)
    labelled, frozen = set(protocols) - {"spectrum"}, {"knn", "linear"} & set(protocols)
    size = model.backbone.pretrained_cfg["input_size"][-1]
    views = MultiView(preset, views=_VIEWS, size=size)
    labels, test_labels, classes = dense_labels(train, test) if labelled else ([], [], [])
    if k is None:
        k = [count for count in K if count <= len(labels)]
    if "knn" in frozen:
        check_votes(k, temperature, len(labels))
    device = next(model.parameters()).device
    precision = resolve_precision(precision, device)
    compute = device if device.type == "cuda" else torch.device("cpu")  # float64 is wanted

    def features(encoder: nn.Module, source: Source, img_size: int | None = None) -> Tensor:
        transform = create_transform(model, img_size=img_size)
        options = {"transform": transform, "workers": workers, "progress": progress}
        return extract_features(encoder, source, precision=precision, **options).to(compute)

    accuracy: dict[str, dict[str, list[Accuracy]]] = {name: {} for name in ENCODERS}
    of_test, probe = None, None
    for name in ENCODERS if frozen else ():
        for i, seed in enumerate(seeds):
            if i == 0 or name == "random initialisation":  # the others have no seed
                if name == "raw pixels":
                    encoder = nn.Flatten()
                else:
                    encoder = model if name == "pretrained" else random_twin(model, seed)
                pixels = min(_PIXELS, size) if name == "raw pixels" else None
                data = [features(encoder, source, pixels) for source in (train, test)]
                data = [data[0], labels.to(compute), data[1], test_labels.to(compute)]
                if "knn" in frozen:
                    for count, found in knn(*data, k=k, temperature=temperature).items():
                        accuracy[name].setdefault(f"k-NN {count}", []).append(found)
            if "linear" in frozen:
                found = linear_probe(*data, seed=seed)
                accuracy[name].setdefault("linear", []).append(found.accuracy)
                if name == "pretrained":
                    probe = probe or found
        if name == "pretrained":
            of_test = data[2]
        del data  # before the next one takes as much memory
    for name in ENCODERS[1:] if "finetune" in protocols else ():
        net = model if name == "pretrained" else random_twin(model, seeds[0])
        for share in shares:
            found = finetune(
                *(net, train, test),
                share=share,
                epochs=epochs,
                lr=lr,
                layer_decay=layer_decay,
                precision=precision,
                seed=seeds[0],
                workers=workers,
                progress=progress,
            )
            accuracy[name][f"fine-tuned {100 * share:g} %"] = [found]
    spectra: dict[str, Spectrum] = {}
    invariance: dict[str, Invariance] = {}
    if "spectrum" in protocols:
        rows = _spread(len(test.dataset), SPECTRUM_IMAGES)
        looked_at = features(model, _select(test, rows)) if of_test is None else of_test[rows]
        spectra = {name: spectrum(x) for name, x in _projected(model, looked_at).items()}
        invariance = _invariance(model, test, views, preset, precision, workers)
    return Evaluation(
        protocols=_sentences(protocols, k, temperature, shares, epochs, lr, layer_decay, precision),
        accuracy={name: found for name, found in accuracy.items() if found},
        seeds=tuple(seeds),
        labels=classes,
        train_images=len(labels),
        test_images=len(test.dataset),
        digest=_digest(labels, test_labels),
        spectrum=spectra,
        invariance=invariance,
        precision=precision,
        probe=probe,
    )


def _check(
    protocols: Sequence[str],
    seeds: Sequence[int],
    train: Source | None,
    shares: Sequence[float],
    epochs: int | None,
) -> None:
    """Raise ValueError for what would come to light only after hours."""
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {protocol!r}; protocols are {', '.join(PROTOCOLS)}")
    if not protocols or not seeds:
        raise ValueError("one protocol and one seed, or more, are wanted")
    labelled = [protocol for protocol in protocols if protocol != "spectrum"]
    if labelled and train is None:
        raise ValueError(f"{', '.join(labelled)}: labelled images of train are wanted")
    for share in shares:
        check_tuning(share, epochs)


def _digest(labels: Sequence[int] | Tensor, test_labels: Sequence[int] | Tensor) -> str:
    """Tells data sets without a name apart, and nothing else about them."""
    both = [*map(int, labels), -1, *map(int, test_labels)]
    return hashlib.sha256(json.dumps(both).encode()).hexdigest()[:16]


def random_twin(model: SSLModel, seed: int) -> nn.Module:
    """The same backbone with fresh weights, on the same device."""
    cfg = model.backbone.pretrained_cfg
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        twin = build_backbone(cfg["architecture"], model.backbone_args)
    twin.pretrained_cfg = cfg
    return twin.to(next(model.parameters()).device)


def _sentences(
    protocols: Sequence[str],
    k: Sequence[int] | None,
    temperature: float,
    shares: Sequence[float],
    epochs: int | None,
    lr: float,
    layer_decay: float | None,
    precision: str,
) -> dict[str, str]:
    """The protocol of every number, by its name."""
    sentences = {}
    in_precision = "" if precision == "fp32" else f", backbone in {precision} by autocast"
    if "knn" in protocols:
        for count in k:
            sentences[f"k-NN {count}"] = (
                f"training images that vote: the nearest {count}, by weights of "
                f"exp(cosine / {temperature:g}), features not centred{in_precision}"
            )
    if "linear" in protocols:
        sentences["linear"] = (
            "logistic regression on standardised features by L-BFGS, its L2 weight chosen on 20 % "
            f"of train{in_precision}"
        )
    if "finetune" in protocols:
        decay = "" if layer_decay is None else f", layer-wise decay {layer_decay:g}"
        for share in shares:
            passes = default_epochs(share) if epochs is None else epochs
            sentences[f"fine-tuned {100 * share:g} %"] = (
                f"all weights trained on {100 * share:g} % of the labels of every class, {passes} "
                f"epochs of AdamW, lr {lr:g}{decay}, weight decay {WEIGHT_DECAY:g}, batch "
                f"{BATCH_SIZE}, cosine schedule, random crops of 70 % or more and flips, last epoch"
                f"{in_precision}"
            )
    return sentences


def _projected(model: SSLModel, features: Tensor) -> dict[str, Tensor]:
    """Features (..., F), and what the projector makes of them, (..., D)."""
    both = {"features": features}
    if model.projector is not None:
        weight = next(model.projector.parameters())
        flat = features.flatten(0, -2).to(weight.device)
        training = model.projector.training
        with torch.no_grad():
            parts = [model.projector.eval()(part.to(weight.dtype)) for part in flat.split(4096)]
        model.projector.train(training)
        both["projections"] = torch.cat(parts).to(features).unflatten(0, features.shape[:-1])
    return both


def _invariance(
    model: SSLModel,
    test: Source,
    views: MultiView,
    preset: str,
    precision: Precision,
    workers: int | None,
) -> dict[str, Invariance]:
    images = _select(test, _spread(len(test.dataset), _VIEWED_IMAGES))
    features = extract_views(model, images, views, precision=precision, workers=workers)
    return {
        name: Invariance(
            images=len(images.dataset),
            views=_VIEWS,
            preset=preset,
            lidar=lidar(x),
            alignment=alignment(x),
            uniformity=uniformity(x[0]),
        )
        for name, x in _projected(model, features).items()
    }


def _spread(count: int, most: int) -> list[int]:
    """So many rows at most, evenly spread: data sets are often sorted by class."""
    return [i * count // most for i in range(most)] if count > most else list(range(count))


def _select(source: Source, rows: list[int]) -> Source:
    return replace(source, dataset=source.dataset.select(rows), num_images=len(rows))

"""Measurements of one encoder: frozen features, fine-tuning, and what needs no labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effssl.data._broken import BrokenImages
from effssl.data.sources import Source
from effssl.evaluation._encoders import Encoder
from effssl.evaluation._images import Images
from effssl.evaluation._settings import Settings, knn_name, shots_names, tuned_name
from effssl.evaluation.accuracy import Accuracy
from effssl.evaluation.features import extract_readable, extract_readable_views
from effssl.evaluation.fewshot import fewshot
from effssl.evaluation.finetune import tune
from effssl.evaluation.invariance import alignment, lidar, uniformity
from effssl.evaluation.knn import knn
from effssl.evaluation.linear import LinearProbe, linear_probe
from effssl.evaluation.spectrum import Spectrum, spectrum
from effssl.model import SSLModel
from effssl.progress import Stage
from effssl.transform import create_transform
from effssl.views import MultiView
from effssl.views.options import describe

SPECTRUM_IMAGES = 10_000
VIEWS = 10
_VIEWED_IMAGES = 1000


@dataclass(frozen=True)
class Invariance:
    """`lidar`, `alignment` and `uniformity` of random views of images.

    Attributes:
        images: Number of images.
        views: Number of views of each image.
        preset: Preset of the views, with what was changed in it.
        lidar: `effssl.evaluation.lidar`.
        alignment: `effssl.evaluation.alignment`.
        uniformity: `effssl.evaluation.uniformity` of one view of each image.
    """

    images: int
    views: int
    preset: str
    lidar: float
    alignment: float
    uniformity: float


@dataclass
class FrozenResult:
    """Results on frozen features of one encoder.

    Attributes:
        accuracy: Results by protocol, one for each seed that makes a difference.
        probe: Linear probe of the first seed, if asked for.
        test_features: Features of readable test images, (M, F).
        test_rows: Their rows, (M,).
    """

    accuracy: dict[str, list[Accuracy]]
    probe: LinearProbe | None
    test_features: Tensor
    test_rows: Tensor


def measure_frozen(
    model: SSLModel, encoder: Encoder, images: Images, settings: Settings
) -> FrozenResult:
    """Classify frozen features by k-NN, a linear probe, and with few labels.

    Args:
        model: The pretrained model, which determines transform and device.
        encoder: The encoder to measure.
        images: Labeled images.
        settings: Protocols and their options.
    """
    accuracy: dict[str, list[Accuracy]] = {}
    probe, data, test = None, (), ()
    classes = len(images.classes)
    for number, seed in enumerate(settings.seeds, 1):
        with Stage(_title(encoder, number, settings), shown=settings.progress):
            found: dict[str, Accuracy] = {}
            fresh = not data or encoder.seeded
            if fresh:
                data = test = ()  # free the memory of the features before
                data, test = _labeled_features(model, encoder, seed, images, settings)
                found |= _voted(data, settings)
            if "linear" in settings.protocols:
                with Stage("fit", shown=settings.progress):
                    fitted = linear_probe(*data, seed=seed)
                found["linear"] = fitted.accuracy
                probe = probe or fitted
            if fresh:
                found |= _drawn(data, settings)
            for name, result in found.items():
                accuracy.setdefault(name, []).append(result.of_classes(classes))
    return FrozenResult(accuracy, probe, *test)


def _title(encoder: Encoder, number: int, settings: Settings) -> str:
    """Return what is measured, such as ``k-NN and linear probe, random weights, seed 2 of 3``."""
    titles = {"knn": "k-NN", "linear": "linear probe", "fewshot": "few labels"}
    of = " and ".join(title for name, title in titles.items() if name in settings.protocols)
    seeded = encoder.seeded or "linear" in settings.protocols
    seed = f", seed {number} of {len(settings.seeds)}" if seeded else ""
    return f"{of}, {encoder.words}{seed}"


def _voted(data: tuple[Tensor, ...], settings: Settings) -> dict[str, Accuracy]:
    """Return the results of k-NN by the names of the protocols, if it is asked for."""
    k = [count for count in settings.vote.k or () if count <= len(data[0])]
    if "knn" not in settings.protocols:
        return {}
    with Stage("vote", shown=settings.progress):
        found = knn(*data, k=k, temperature=settings.vote.temperature)
    return {knn_name(count): result for count, result in found.items()}


def _drawn(data: tuple[Tensor, ...], settings: Settings) -> dict[str, Accuracy]:
    """Return the results with few labels by the names of the protocols, if they are asked for."""
    if "fewshot" not in settings.protocols:
        return {}
    most = min(data[1].unique(return_counts=True)[1].tolist())  # of images that could be read
    shots = [count for count in settings.shots.shots or () if count <= most]
    if not shots:
        return {}
    options = {"episodes": settings.shots.episodes, "progress": settings.progress}
    results = fewshot(*data, shots=shots, **options)
    found = {}
    for count, result in results.items():
        nearest, linear = shots_names(count)
        found |= {nearest: result.nearest_mean, linear: result.linear}
    return {name: found[name] for name in settings.shot_names if name in found}


def measure_tuned(
    encoder: Encoder, images: Images, settings: Settings
) -> dict[str, list[Accuracy]]:
    """Fine-tune an encoder on every share of the labels, with the first seed."""
    seed, tuning = settings.seeds[0], settings.tuning
    net = encoder.build(seed)
    with Stage(f"fine-tuning, {encoder.words}", shown=settings.progress):
        return {
            tuned_name(share): [
                tune(
                    net,
                    images,
                    share=share,
                    epochs=tuning.epochs,
                    lr=tuning.lr,
                    layer_decay=tuning.layer_decay,
                    precision=settings.precision,
                    seed=seed,
                    workers=settings.workers,
                    progress=settings.progress,
                )
            ]
            for share in tuning.shares
        }


def measure_spectrum(
    model: SSLModel, images: Images, found: FrozenResult | None, settings: Settings
) -> dict[str, Spectrum]:
    """Return the spectra of features and projections of test images, labeled or not.

    Args:
        model: The pretrained model.
        images: Images, of which those of test count.
        found: Result with the features of all test images, if they are known already.
        settings: Options of the extraction.
    """
    rows, met = _spread(len(images.test.dataset), SPECTRUM_IMAGES), images.test_broken
    with Stage("spectrum", shown=settings.progress):
        if found is None:
            features, _ = _features(model, model, images.test, rows, met, None, settings)
        else:
            features = found.test_features[torch.isin(found.test_rows, torch.tensor(rows))]
        return {name: spectrum(x) for name, x in _projected(model, features).items()}


def measure_invariance(
    model: SSLModel, images: Images, views: MultiView, settings: Settings
) -> dict[str, Invariance]:
    """Return the invariance of features and projections to random views of test images."""
    rows = _spread(len(images.test.dataset), _VIEWED_IMAGES)
    met = images.test_broken
    with Stage("LiDAR, alignment and uniformity", shown=settings.progress):
        features, _ = extract_readable_views(
            model, images.test, rows, met, views, settings.precision, settings.workers
        )
    return {
        name: Invariance(
            images=x.shape[1],
            views=views.views,
            preset=describe(settings.preset, settings.view),
            lidar=lidar(x),
            alignment=alignment(x),
            uniformity=uniformity(x[0]),
        )
        for name, x in _projected(model, features).items()
    }


def _labeled_features(
    model: SSLModel, encoder: Encoder, seed: int, images: Images, settings: Settings
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return features and labels of train and of test; and features and rows of test.

    The latter are of all test images if a spectrum is asked for, else of the labeled ones too.
    """
    net, size = encoder.build(seed), encoder.img_size
    rows = images.train_rows
    train, kept = _features(model, net, images.train, rows, images.train_broken, size, settings)
    labels = images.train_labels[rows][kept].to(train.device)
    rows = images.test_rows
    if "spectrum" in settings.protocols:
        rows = range(len(images.test.dataset))
    every, kept = _features(model, net, images.test, rows, images.test_broken, size, settings)
    test_rows = torch.tensor(rows)[kept]
    test_labels = images.test_labels[test_rows].to(every.device)
    test, labeled = every, test_labels >= 0
    if not labeled.all():
        test, test_labels = test[labeled], test_labels[labeled]
    return (train, labels, test, test_labels), (every, test_rows)


def _features(
    model: SSLModel,
    net: nn.Module,
    source: Source,
    rows: Sequence[int],
    met: BrokenImages,
    img_size: int | None,
    settings: Settings,
) -> tuple[Tensor, Tensor]:
    """Return features of the readable images among some rows, and their places there."""
    features, places = extract_readable(
        net,
        source,
        rows,
        met,
        transform=create_transform(model, img_size=img_size),
        precision=settings.precision,
        workers=settings.workers,
        progress=settings.progress,
    )
    device = next(model.parameters()).device
    # the measures need float64, which CUDA has and other accelerators may lack
    return features.to(device if device.type == "cuda" else "cpu"), places


def _projected(model: SSLModel, features: Tensor) -> dict[str, Tensor]:
    """Return features (..., F) and, if the model has a projector, their projections (..., D)."""
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


def _spread(count: int, most: int) -> list[int]:
    """Return at most so many rows, evenly spread: datasets are often sorted by class."""
    return [i * count // most for i in range(most)] if count > most else list(range(count))

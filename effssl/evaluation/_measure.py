"""Measurements of one encoder: frozen features, fine-tuning, and what needs no labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from effssl.data.sources import Source
from effssl.evaluation._encoders import Encoder
from effssl.evaluation._settings import Settings, knn_name, tuned_name
from effssl.evaluation.accuracy import Accuracy
from effssl.evaluation.features import extract_features, extract_views
from effssl.evaluation.finetune import finetune
from effssl.evaluation.invariance import alignment, lidar, uniformity
from effssl.evaluation.knn import knn
from effssl.evaluation.linear import LinearProbe, linear_probe
from effssl.evaluation.spectrum import Spectrum, spectrum
from effssl.model import SSLModel
from effssl.transform import create_transform
from effssl.views import MultiView

SPECTRUM_IMAGES = 10_000
VIEWS = 10
_VIEWED_IMAGES = 1000


@dataclass(frozen=True)
class Invariance:
    """`lidar`, `alignment` and `uniformity` of random views of images.

    Attributes:
        images: Number of images.
        views: Number of views of each image.
        preset: Preset of the views.
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


@dataclass(frozen=True)
class Images:
    """Images to measure on.

    Attributes:
        train: Labeled images, or None.
        test: Test images.
        train_labels: Classes from 0, (N,), if there are labels.
        test_labels: Likewise, (M,).
    """

    train: Source | None
    test: Source
    train_labels: Tensor
    test_labels: Tensor


@dataclass
class FrozenResult:
    """Results on frozen features of one encoder.

    Attributes:
        accuracy: Results by protocol, one for each seed that makes a difference.
        probe: Linear probe of the first seed, if asked for.
        test_features: Features of the test images, (M, F).
    """

    accuracy: dict[str, list[Accuracy]]
    probe: LinearProbe | None
    test_features: Tensor


def measure_frozen(
    model: SSLModel, encoder: Encoder, images: Images, settings: Settings
) -> FrozenResult:
    """Classify frozen features by k-NN and a linear probe.

    Args:
        model: The pretrained model, which determines transform and device.
        encoder: The encoder to measure.
        images: Labeled images.
        settings: Protocols and their options.
    """
    accuracy: dict[str, list[Accuracy]] = {}
    probe, data = None, ()
    for seed in settings.seeds:
        if not data or encoder.seeded:
            data = ()  # free the memory of the features before
            data = _labeled_features(model, encoder, seed, images, settings)
            if "knn" in settings.protocols:
                found = knn(*data, k=settings.vote.k, temperature=settings.vote.temperature)
                for count, result in found.items():
                    accuracy.setdefault(knn_name(count), []).append(result)
        if "linear" in settings.protocols:
            fitted = linear_probe(*data, seed=seed)
            accuracy.setdefault("linear", []).append(fitted.accuracy)
            probe = probe or fitted
    return FrozenResult(accuracy, probe, data[2])


def measure_tuned(
    encoder: Encoder, images: Images, settings: Settings
) -> dict[str, list[Accuracy]]:
    """Fine-tune an encoder on every share of the labels, with the first seed."""
    seed, tuning = settings.seeds[0], settings.tuning
    net = encoder.build(seed)
    return {
        tuned_name(share): [
            finetune(
                net,
                images.train,
                images.test,
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
    model: SSLModel, test: Source, test_features: Tensor | None, settings: Settings
) -> dict[str, Spectrum]:
    """Return the spectra of features and projections of test images.

    Args:
        model: The pretrained model.
        test: Test images.
        test_features: Their features, if they are known already.
        settings: Options of the extraction.
    """
    rows = _spread(len(test.dataset), SPECTRUM_IMAGES)
    if test_features is None:
        features = _features(model, model, _select(test, rows), None, settings)
    else:
        features = test_features[rows]
    return {name: spectrum(x) for name, x in _projected(model, features).items()}


def measure_invariance(
    model: SSLModel, test: Source, views: MultiView, settings: Settings
) -> dict[str, Invariance]:
    """Return the invariance of features and projections to random views of test images."""
    images = _select(test, _spread(len(test.dataset), _VIEWED_IMAGES))
    features = extract_views(
        model, images, views, precision=settings.precision, workers=settings.workers
    )
    return {
        name: Invariance(
            images=len(images.dataset),
            views=views.views,
            preset=settings.preset,
            lidar=lidar(x),
            alignment=alignment(x),
            uniformity=uniformity(x[0]),
        )
        for name, x in _projected(model, features).items()
    }


def _labeled_features(
    model: SSLModel, encoder: Encoder, seed: int, images: Images, settings: Settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return features and labels of train and of test."""
    net = encoder.build(seed)
    train = _features(model, net, images.train, encoder.img_size, settings)
    test = _features(model, net, images.test, encoder.img_size, settings)
    return train, images.train_labels.to(train.device), test, images.test_labels.to(test.device)


def _features(
    model: SSLModel, net: nn.Module, source: Source, img_size: int | None, settings: Settings
) -> Tensor:
    features = extract_features(
        net,
        source,
        transform=create_transform(model, img_size=img_size),
        precision=settings.precision,
        workers=settings.workers,
        progress=settings.progress,
    )
    device = next(model.parameters()).device
    # the measures need float64, which CUDA has and other accelerators may lack
    return features.to(device if device.type == "cuda" else "cpu")


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


def _select(source: Source, rows: list[int]) -> Source:
    return replace(source, dataset=source.dataset.select(rows), num_images=len(rows))

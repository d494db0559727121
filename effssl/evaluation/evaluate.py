"""A pretrained model beside raw pixels and its own random initialisation, by the same protocols."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effssl.data.sources import Source
from effssl.evaluation.features import extract_features
from effssl.evaluation.knn import knn
from effssl.evaluation.linear import linear_probe
from effssl.evaluation.transform import create_transform
from effssl.model import SSLModel, build_backbone
from effssl.seeding import derived_seed

PROTOCOLS = {
    "knn": "k-NN: 20 neighbours, weights exp(cosine / 0.07), features not centred",
    "linear": "linear: logistic regression on standardised features, L2 chosen on 20 % of train",
}
_PIXELS = 32


def evaluate(
    model: SSLModel,
    train: Source,
    test: Source,
    *,
    protocols: tuple[str, ...] = ("knn", "linear"),
    seed: int = 0,
    workers: int = 0,
    progress: bool = False,
) -> dict[str, dict[str, float]]:
    """Top-1 on test, in percent, of raw pixels, the random initialisation, and the model.

    Raw pixels are the model's input, resized to at most 32 x 32 and flattened. The random
    initialisation is the same backbone with fresh weights.

    Args:
        model: From `from_pretrained`.
        train: Labelled images of the protocols.
        test: Labelled images on which accuracy is measured, and nothing is chosen.
        protocols: Of ``knn`` and ``linear``.
        seed: Of the random initialisation and of the part of train that the linear probe holds out.
        workers: Processes that decode images.
        progress: Show a progress bar.

    Returns:
        ``{"raw pixels": {"knn": ..., "linear": ...}, "random initialisation": ..., "pretrained":
        ...}``.

    Raises:
        ValueError: If a protocol is unknown or a source has no labels.
    """
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {protocol!r}; protocols are {', '.join(PROTOCOLS)}")
    train_labels, test_labels = torch.tensor(train.labels()), torch.tensor(test.labels())
    size = min(_PIXELS, model.backbone.pretrained_cfg["input_size"][-1])
    encoders = {
        "raw pixels": (nn.Flatten(), create_transform(model, img_size=size)),
        "random initialisation": (_random_twin(model, seed), create_transform(model)),
        "pretrained": (model, create_transform(model)),
    }
    table: dict[str, dict[str, float]] = {}
    for name, (encoder, transform) in encoders.items():

        def features(source: Source, encoder=encoder, transform=transform) -> Tensor:
            return extract_features(
                encoder, source, transform=transform, workers=workers, progress=progress
            )

        data = (features(train), train_labels, features(test), test_labels)
        table[name] = {}
        if "knn" in protocols:
            table[name]["knn"] = knn(*data)
        if "linear" in protocols:
            table[name]["linear"] = linear_probe(*data, seed=seed).top1
    return table


def _random_twin(model: SSLModel, seed: int) -> nn.Module:
    cfg = model.backbone.pretrained_cfg
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        twin = build_backbone(cfg["architecture"], model.backbone_args)
    twin.pretrained_cfg = cfg
    return twin.to(next(model.parameters()).device)

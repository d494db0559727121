"""A pretrained model beside raw pixels and its own random initialisation, by the same protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from effssl.data.sources import Source
from effssl.evaluation.features import extract_features
from effssl.evaluation.knn import knn
from effssl.evaluation.linear import LinearProbe, linear_probe
from effssl.evaluation.spectrum import effective_rank, eigenvalues
from effssl.evaluation.transform import create_transform
from effssl.model import SSLModel, build_backbone
from effssl.seeding import derived_seed

PROTOCOLS = {
    "knn": "k-NN: 20 neighbours, weights exp(cosine / 0.07), features not centred",
    "linear": "linear: logistic regression on standardised features, L2 chosen on 20 % of train",
}
_PIXELS = 32
_RANKS = 100  # of a spectrum, that are kept


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured with one seed.

    Attributes:
        top1: Percent, as ``top1["pretrained"]["knn"]``, beside the same of ``"raw pixels"`` and
            ``"random initialisation"``.
        seed: Of the random initialisation and of what the linear probe holds out.
        train_images: Labelled images that were voted with and fitted to.
        test_images: Labelled images that were classified.
        eigenvalues: Of the covariance of the pretrained features of test, largest first.
        effective_rank: Of the same features.
        probe: The linear probe of the pretrained features; None if there was none.
    """

    top1: dict[str, dict[str, float]]
    seed: int
    train_images: int
    test_images: int
    eigenvalues: list[float]
    effective_rank: float
    probe: LinearProbe | None = field(compare=False, repr=False)


def record(
    evaluations: Sequence[Evaluation],
    *,
    dataset: str | None,
    train_split: str,
    test_split: str,
    of: str = "seeds",
) -> dict:
    """What training.json keeps of evaluations that differ by their seeds, and the card shows.

    Args:
        evaluations: One or more; the spectrum is that of the first.
        dataset: Name of the data set; None if it is not public.
        train_split: Split that was voted with and fitted to.
        test_split: Split that accuracy was measured on.
        of: What the spread is of: ``seeds`` of the evaluation, or ``trainings``.
    """
    first = evaluations[0]
    values = first.eigenvalues
    ranks = sorted({round(len(values) ** (i / (_RANKS - 1))) for i in range(_RANKS)})
    return {
        "dataset": dataset,
        "train_split": train_split,
        "train_images": first.train_images,
        "test_split": test_split,
        "test_images": first.test_images,
        "protocols": {name: PROTOCOLS[name] for name in first.top1["pretrained"]},
        "seeds": [evaluation.seed for evaluation in evaluations],
        "of": of,
        "top1": {
            name: {
                protocol: [round(e.top1[name][protocol], 2) for e in evaluations]
                for protocol in row
            }
            for name, row in first.top1.items()
        },
        "spectrum": {
            "rank": ranks,
            "eigenvalue": [float(f"{values[rank - 1]:.4g}") for rank in ranks],
            "effective_rank": round(first.effective_rank, 1),
        },
    }


def evaluate(
    model: SSLModel,
    train: Source,
    test: Source,
    *,
    protocols: tuple[str, ...] = ("knn", "linear"),
    seed: int = 0,
    workers: int = 0,
    progress: bool = False,
) -> Evaluation:
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
    probe = None
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
            probe = linear_probe(*data, seed=seed)
            table[name]["linear"] = probe.top1
    of_pretrained = data[2]
    return Evaluation(
        top1=table,
        seed=seed,
        train_images=len(train_labels),
        test_images=len(test_labels),
        eigenvalues=eigenvalues(of_pretrained).tolist(),
        effective_rank=effective_rank(of_pretrained),
        probe=probe,
    )


def _random_twin(model: SSLModel, seed: int) -> nn.Module:
    cfg = model.backbone.pretrained_cfg
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        twin = build_backbone(cfg["architecture"], model.backbone_args)
    twin.pretrained_cfg = cfg
    return twin.to(next(model.parameters()).device)

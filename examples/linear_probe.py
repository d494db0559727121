"""Measure frozen features by k-NN and linear probe, from Python.

    python examples/linear_probe.py runs/first
    python examples/linear_probe.py runs/mine --dataset path/to/labeled --in-chans 3

effssl evaluate does this beside raw pixels and random weights, with several seeds.
"""

from typing import Annotated

import torch
import tyro

import effssl
from effssl.evaluation import knn, linear_probe


def main(
    model: Annotated[str, tyro.conf.Positional] = (
        "test_convnext2-spectral-p256-aug4-fashion-mnist-sample"
    ),
    dataset: str = "fashion-mnist-sample",
    train_split: str = "train",
    test_split: str = "test",
    in_chans: int = 1,
) -> None:
    """Print top-1 accuracy on the test split."""
    encoder = effssl.from_pretrained(model)
    data = []
    for split in (train_split, test_split):
        source = effssl.data.load_source(dataset, split, in_chans=in_chans)
        data += [effssl.extract_features(encoder, source), torch.tensor(source.labels())]
    for k, accuracy in knn(*data, k=(5, 20)).items():
        print(f"k-NN {k}: {accuracy.top1:.1f} %")
    probe = linear_probe(*data)
    print(f"linear: {probe.accuracy.top1:.1f} %, L2 weight {probe.l2:.2g}")


if __name__ == "__main__":
    tyro.cli(main)

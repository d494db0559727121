"""The linear probe of a model folder."""

from __future__ import annotations

from pathlib import Path

import torch

from effssl.hub._folder import PROBE, TRAINING, read_record
from effssl.hub._tensor_file import open_tensors
from effssl.hub._weights import check_weights, read_weights
from effssl.model import SSLModel


def check_probe(folder: Path, model: SSLModel) -> None:
    """Check that the linear probe of a folder, if there is one, is a classifier of its features.

    Raises:
        ValueError: If it is not, or not the one that training.json names.
    """
    path = folder / PROBE
    noted = [one.probe for one in read_record(folder).evaluation if one.probe is not None]
    if not path.is_file():
        if noted:
            raise ValueError(f"{folder / TRAINING} names {PROBE}, which is missing: evaluate again")
        return
    with open_tensors(path) as file:
        shape = file.entries.get("weight", ("", ()))[1]
        classes = shape[0] if len(shape) == 2 else 1
        expected = {
            "weight": torch.empty(classes, model.num_features, device="meta"),
            "bias": torch.empty(classes, device="meta"),
        }
        check_weights(file, expected)
        read_weights(file, expected)
        if noted and noted[0] != file.description():
            raise ValueError(
                f"{path} is not the one that {TRAINING} names: evaluate again, or delete it there"
            )

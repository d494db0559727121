"""Agreement of the processes of an evaluation or extraction on what they were given."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

from effssl.background import color_of
from effssl.data.sources import Source
from effssl.distributed import gather_objects, world_size


def check_same(given: Mapping[str, str]) -> None:
    """Check that all processes were given the same; every process must call it.

    Args:
        given: Text or digest of each thing that must agree, by its name for the error.

    Raises:
        ValueError: In every process, if they were not; it names what differs.
    """
    every = gather_objects(dict(given))
    different = [name for name in given if any(one.get(name) != given[name] for one in every)]
    if different:
        raise ValueError(
            f"the {world_size()} processes were given different {', '.join(different)}: give the "
            "same to all"
        )


def model_digest(model: nn.Module) -> str:
    """Return a digest of the structure and the weights of a model."""
    digest = hashlib.sha256(f"{model}".encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def images_digest(source: Source) -> str:
    """Return a digest of the images of a source, their labels and their paths."""
    how = f"{source.value_range} {color_of(source.background)}"
    digest = hashlib.sha256(f"{how} {source.digest()}".encode())
    if source.label_column is not None:
        digest.update(repr(source.dataset[source.label_column][:]).encode())
    digest.update(repr(source.paths()).encode())
    return digest.hexdigest()

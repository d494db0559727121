"""Frozen features of every image of a source."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from effssl.data.sources import Source
from effssl.evaluation.transform import create_transform


class _TransformedImages(Dataset):
    def __init__(self, source: Source, transform: Callable) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source.dataset)

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        images = self.source.dataset[indices][self.source.image_column]
        return [self.transform(image) for image in images]


def extract_features(
    model: nn.Module,
    source: Source,
    *,
    transform: Callable | None = None,
    batch_size: int = 256,
    workers: int = 0,
    progress: bool = False,
) -> Tensor:
    """Run a model in eval mode, without gradients, over every image in order.

    Args:
        model: An `SSLModel`, a timm backbone, or any module from images to vectors. Its weights,
            buffers and mode stay as they are.
        source: Images, from `load_source`.
        transform: From a PIL image to (C, S, S); `create_transform` of the model if None.
        batch_size: Images a forward pass.
        workers: Processes that decode and transform.
        progress: Show a progress bar.

    Returns:
        Float features on the CPU, (N, F).
    """
    images = _TransformedImages(source, transform or create_transform(model))
    loader = DataLoader(images, batch_size, num_workers=workers, collate_fn=torch.stack)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            bar = tqdm(loader, desc="features", unit="batch", disable=None if progress else True)
            features = torch.cat([model(batch.to(device)).float().cpu() for batch in bar])
    finally:
        model.train(training)
    return features.clone()  # an inference tensor could not take part in a probe's autograd

"""Frozen features of every image of a source."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from effssl.data.decode import BrokenImage, image_name, open_image
from effssl.data.sources import Source
from effssl.evaluation.transform import create_transform


class _TransformedImages(Dataset):
    def __init__(self, source: Source, transform: Callable) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source.dataset)

    def __getitems__(self, indices: list[int]) -> list[Tensor | BrokenImage]:
        values = self.source.dataset[indices][self.source.image_column]
        return [self._read(row, value) for row, value in zip(indices, values, strict=True)]

    def _read(self, row: int, value: object) -> Tensor | BrokenImage:
        try:
            image = open_image(value, self.source.in_chans)
        except BrokenImage as error:
            name = image_name(value, f"row {row}")
            return BrokenImage(f"{name}: {error}; features need every image")
        return self.transform(image)


def _stack(images: list[Tensor | BrokenImage]) -> Tensor | BrokenImage:
    # handed on, since an error raised in a worker comes with its traceback as the message
    broken = [image for image in images if isinstance(image, BrokenImage)]
    return broken[0] if broken else torch.stack(images)


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
        source: Map-style images, from `load_source`.
        transform: From a PIL image, or uint8 pixels (C, H, W) where the source holds arrays, to
            (C, S, S); `create_transform` of the model if None.
        batch_size: Images a forward pass.
        workers: Processes that decode and transform.
        progress: Show a progress bar.

    Returns:
        Float features on the CPU, (N, F).

    Raises:
        ValueError: If an image is broken, since every one must have its features, or the source is
            a stream.
    """
    if source.streaming:
        raise ValueError("features need a map-style source; load it without streaming")
    images = _TransformedImages(source, transform or create_transform(model))
    loader = DataLoader(images, batch_size, num_workers=workers, collate_fn=_stack)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            bar = tqdm(loader, desc="features", unit="batch", disable=None if progress else True)
            features = []
            for batch in bar:
                if isinstance(batch, BrokenImage):
                    raise batch
                features.append(model(batch.to(device)).float().cpu())
    finally:
        model.train(training)
    return torch.cat(
        features
    ).clone()  # an inference tensor could not take part in a probe's autograd

"""k-NN accuracy on labelled images of the training data while a run goes on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from effssl.data.sources import Source
from effssl.evaluation.knn import knn
from effssl.evaluation.transform import create_transform
from effssl.model import SSLModel
from effssl.seeding import seeded_generator

IMAGES = 5120  # at most; a fifth of them ask, the others vote
_BATCH = 256


class OnlineKNN:
    """Measures features by a vote of neighbours, on the same images each time.

    Some images vote and others, held out from them, are classified; all are trained on, without
    their labels. It draws from no random generator but its own.

    Args:
        source: Labelled map-style images.
        images: The same rows decoded: ``__getitems__`` gives a uint8 tensor (C, h, w) each, or
            what is no tensor where an image is broken.
        seed: Of the choice of images.

    Raises:
        ValueError: If the label column holds anything but classes from 0.
    """

    def __init__(self, source: Source, images: Dataset, seed: int) -> None:
        self.images = images
        labels = torch.tensor(source.labels())
        order = torch.randperm(len(labels), generator=seeded_generator(seed, "knn"))[:IMAGES]
        self.rows, self.labels = order.tolist(), labels[order]

    def __call__(self, model: SSLModel, device: torch.device) -> float:
        """Top-1 accuracy in percent by 20 neighbours; the model keeps its mode and its buffers."""
        transform, training = create_transform(model), model.training
        features, labels = [], []
        model.eval()
        try:
            with torch.inference_mode():
                for start in range(0, len(self.rows), _BATCH):
                    part = slice(start, start + _BATCH)
                    images = self.images.__getitems__(self.rows[part])
                    whole = [i for i, image in enumerate(images) if isinstance(image, Tensor)]
                    if whole:
                        batch = torch.stack([transform(images[i]) for i in whole])
                        batch = batch.to(device, next(model.parameters()).dtype)
                        features.append(model.backbone(batch).float().cpu())
                        labels.append(self.labels[part][whole])
        finally:
            model.train(training)
        features, labels = torch.cat(features), torch.cat(labels)
        voters = len(features) * 4 // 5
        return knn(
            *(features[:voters], labels[:voters], features[voters:], labels[voters:]),
            k=min(20, voters),
        )

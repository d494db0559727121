"""Features of some training images while a run goes on: their spectrum, and k-NN accuracy."""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.utils.data import Dataset

from effssl.data.sources import Source
from effssl.evaluation.accuracy import check_classes
from effssl.evaluation.knn import knn
from effssl.evaluation.spectrum import spectrum
from effssl.evaluation.transform import create_transform
from effssl.model import SSLModel
from effssl.seeding import seeded_generator

logger = logging.getLogger(__name__)

IMAGES = 5120  # at most; with labels a fifth of them ask, the others vote
_BATCH = 256
_WIDE = 2048  # eigenvalues of larger matrices take a CPU minutes


class OnlineEvaluation:
    """Measures features, on the same images each time.

    With labels some images vote and others, held out from them, are classified; all are trained on,
    without their labels. It draws from no random generator but its own.

    Args:
        source: Map-style images.
        images: The same rows decoded: ``__getitems__`` gives a uint8 tensor (C, h, w) each, or
            what is no tensor where an image is broken.
        seed: Of the choice of images.
        labelled: Whether to read the labels.

    Raises:
        ValueError: If the label column holds anything but classes from 0, or one class only.
    """

    def __init__(self, source: Source, images: Dataset, seed: int, *, labelled: bool) -> None:
        self.images = images
        generator = seeded_generator(seed, "knn")
        order = torch.randperm(len(source.dataset), generator=generator)[:IMAGES]
        self.rows, self.labels = order.tolist(), None
        if labelled:
            labels = torch.tensor(source.labels())
            check_classes(labels, labels)
            self.labels = labels[order]

    @torch.inference_mode()
    def __call__(self, model: SSLModel, device: torch.device) -> dict:
        """What a line of metrics.jsonl gets; the model keeps its mode and its buffers.

        Returns:
            ``spectrum``, with `Spectrum.record` of ``features`` and ``projections``, and with
            labels ``knn``, the top-1 accuracy in percent by 20 neighbours. Empty if the features
            are not finite.
        """
        transform, training = create_transform(model), model.training
        features, projections, places = [], [], []
        model.eval()
        try:
            for start in range(0, len(self.rows), _BATCH):
                images = self.images.__getitems__(self.rows[start : start + _BATCH])
                whole = [i for i, image in enumerate(images) if isinstance(image, Tensor)]
                if whole:
                    batch = torch.stack([transform(images[i]) for i in whole])
                    batch = batch.to(device, next(model.parameters()).dtype)
                    features.append(model.backbone(batch))
                    projections.append(model.projector(features[-1]).float().cpu())
                    features[-1] = features[-1].float().cpu()
                    places += [start + i for i in whole]
        finally:
            model.train(training)
        features, projections = torch.cat(features), torch.cat(projections)
        try:
            found: dict = {
                "spectrum": {
                    name: spectrum(x if x.shape[1] <= _WIDE else x[:_WIDE]).record()
                    for name, x in {"features": features, "projections": projections}.items()
                }
            }
        except ValueError as error:
            logger.warning("features were not measured: %s", error)
            return {}
        if self.labels is not None:
            found |= self._knn(features, self.labels[places])
        return found

    def _knn(self, features: Tensor, labels: Tensor) -> dict[str, float]:
        voters = len(features) * 4 // 5
        asked = torch.isin(labels[voters:], labels[:voters])  # of classes that somebody votes for
        k = min(20, voters)
        data = (features[voters:][asked], labels[voters:][asked])
        if not len(data[1]) or len(labels[:voters].unique()) < 2:
            return {}
        return {"knn": knn(features[:voters], labels[:voters], *data, k=(k,))[k].top1}

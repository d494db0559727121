"""Evaluates features of some training images during a run: spectrum and k-NN accuracy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset

from effssl.data.sources import Source
from effssl.device import to_device
from effssl.distributed import world_size
from effssl.evaluation.accuracy import check_classes, read_labels
from effssl.evaluation.features import gathered
from effssl.evaluation.knn import knn
from effssl.evaluation.spectrum import spectrum
from effssl.model import SSLModel
from effssl.progress import Stage
from effssl.seeding import seeded_generator
from effssl.transform import create_transform

logger = logging.getLogger(__name__)

IMAGES = 5120  # largest number; with labels, a fifth are classified by the others
_BATCH = 256
_WIDE = 2048  # eigenvalues of a larger matrix take minutes on a CPU


class OnlineEvaluation:
    """Evaluates features on the same images each time.

    With labels, a fifth of the labeled images is classified by the neighbors among the others. All
    images are also trained on, without labels. Random numbers come from a generator of its own.
    Each process takes a part of the images, in batches that do not depend on the number of
    processes.

    Args:
        source: Map-style images.
        images: Decoded rows of the source: ``__getitems__`` returns a uint8 tensor (C, h, w) for
            each image, or another object if it is broken.
        seed: Seed of the choice of images.
        labeled: Whether to read the labels.

    Raises:
        ValueError: If no image has a label, the labels are not classes, or there is a single one.
    """

    def __init__(self, source: Source, images: Dataset, seed: int, *, labeled: bool) -> None:
        self.images = images
        generator = seeded_generator(seed, "knn")
        order = torch.randperm(len(source.dataset), generator=generator)[:IMAGES]
        self.rows, self.labels = order.tolist(), None
        if labeled:
            labels = read_labels(source)
            known = labels[labels >= 0]
            check_classes(known, known)
            self.labels = labels[order]
            if len(known) < len(labels):
                logger.info(
                    "k-NN accuracy leaves out %d of %d images, which have no label",
                    int((self.labels < 0).sum()),
                    len(order),
                )

    def __call__(
        self, model: SSLModel, device: torch.device, autocast: Callable = nullcontext
    ) -> dict:
        """Evaluate a model, which keeps its mode and its buffers; every process must call it.

        Args:
            model: Model, the same on every process.
            device: Device of the model.
            autocast: Function that returns the context to compute features and projections in.

        Returns:
            ``spectrum``, with `Spectrum.record` of ``features`` and ``projections``, and with
            labels ``knn``, the top-1 accuracy in percent with 20 neighbors. Empty if the features
            are not finite, and on all processes but the first.
        """
        with Stage("evaluate the features", self._own_images()) as stage:
            features, projections, places = self._measured(model, device, autocast, stage)
            if world_size() > 1 and dist.get_rank() > 0:
                return {}
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
                found |= self._knn(features, self.labels[places.squeeze(1).long()])
            return found

    def accuracy(
        self, model: SSLModel, device: torch.device, autocast: Callable = nullcontext
    ) -> float | None:
        """Return the accuracy alone, as for a call; None without labels or on other processes."""
        if self.labels is None:
            return None
        with Stage("k-NN accuracy before training", self._own_images()) as stage:
            features, _, places = self._measured(model, device, autocast, stage)
            if world_size() > 1 and dist.get_rank() > 0:
                return None
            if not len(features) or not features.isfinite().all():
                return None
            return self._knn(features, self.labels[places.squeeze(1).long()]).get("knn")

    @torch.no_grad()
    def _measured(
        self, model: SSLModel, device: torch.device, autocast: Callable, stage: Stage
    ) -> tuple[Tensor, ...]:
        """Features, projections and places of the images of all processes, on the CPU."""
        training = model.training
        model.eval()
        try:
            parts = list(self._parts(model, device, autocast, stage))
        finally:
            model.train(training)
        # copied to the CPU once at the end, since a copy waits for the device
        return tuple(
            gathered(torch.cat(part).cpu() if part else None)
            for part in (zip(*parts, strict=True) if parts else [()] * 3)
        )

    def _own_starts(self) -> range:
        """First places of the batches of this process."""
        starts = range(0, len(self.rows), _BATCH)
        rank = dist.get_rank() if world_size() > 1 else 0
        first, end = ((rank + i) * len(starts) // world_size() for i in (0, 1))
        return starts[first:end]

    def _own_images(self) -> int:
        return sum(min(_BATCH, len(self.rows) - start) for start in self._own_starts())

    def _parts(
        self, model: SSLModel, device: torch.device, autocast: Callable, stage: Stage
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features, projections and places of the images of each of this process's batches."""
        transform, dtype = create_transform(model), next(model.parameters()).dtype
        for start in self._own_starts():
            images = self.images.__getitems__(self.rows[start : start + _BATCH])
            stage.update(len(images))
            whole = [i for i, image in enumerate(images) if isinstance(image, Tensor)]
            if not whole:
                continue
            crops = to_device(torch.stack([transform.crop(images[i]) for i in whole]), device)
            crops = transform.normalize(crops).to(dtype)
            with autocast():
                features = model.backbone(crops)
                projections = model.projector(features)
            places = torch.tensor(whole, dtype=torch.float32).unsqueeze(1) + start
            yield features.float(), projections.float(), places

    def _knn(self, features: Tensor, labels: Tensor) -> dict[str, float]:
        features, labels = features[labels >= 0], labels[labels >= 0]
        voters = len(features) * 4 // 5
        asked = torch.isin(labels[voters:], labels[:voters])  # of classes that the voters have
        k = min(20, voters)
        data = (features[voters:][asked], labels[voters:][asked])
        if not len(data[1]) or len(labels[:voters].unique()) < 2:
            return {}
        return {"knn": knn(features[:voters], labels[:voters], *data, k=(k,))[k].top1}

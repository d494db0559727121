"""Feature extraction, batch by batch."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from effssl.data._broken import BrokenImages, check_broken
from effssl.data._loader import Batch
from effssl.data.sources import Source
from effssl.device import to_device
from effssl.distributed import gather_objects, join, world_size
from effssl.evaluation._agreement import images_digest, model_digest
from effssl.evaluation._device import Precision, autocast, resolve_precision
from effssl.evaluation._reading import ImagesAt, pack
from effssl.hints import option
from effssl.processes import explain_lost_workers, start_method
from effssl.progress import Stage
from effssl.seeding import seeded_generator
from effssl.transform import EvalTransform, create_transform
from effssl.views import MultiView

logger = logging.getLogger(__name__)

_FORMAT = 3  # increase it when a partial output of an earlier version cannot be gone on with


class BatchFeatures(NamedTuple):
    """Features of a batch of images.

    Attributes:
        number: Number of the batch.
        features: Features of its readable images, (n, F), or (V, n, F) if views are not averaged;
            None if there are none.
        broken: Why each of the others cannot be read, by its place among all images.
    """

    number: int
    features: Tensor | None
    broken: dict[int, str]


class Extraction:
    """A model, images and options, and the features that they give batch by batch.

    The arguments are those of `effssl.evaluation.extract_features`. A place is that of an image
    among those asked for, which are all rows of the source or some.

    Args:
        model: Module from images to vectors.
        source: Map-style images.
        views: Random views, or None for the transform alone.
        project: Whether to return projections.
        transform: Transform of an image; `create_transform` of the model if None.
        batch_size: Images in a forward pass.
        precision: Precision of the model.
        seed: Seed of the views.
        average: Whether to average over views.
        rows: Rows of the source to extract the features of; all if None.
        met: Broken images of the source, which gets those met here; none are known yet if None.

    Attributes:
        broken: Why each broken image cannot be read, by its place; those that this process met.

    Raises:
        TypeError: If model is not a module.
        ValueError: If there is no transform, the precision is unknown, or the batch size below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        views: MultiView | None,
        project: bool,
        transform: Callable | None,
        batch_size: int,
        precision: Precision,
        seed: int,
        average: bool = True,
        *,
        rows: Sequence[int] | None = None,
        met: BrokenImages | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model must be a module, got {type(model).__name__}; effssl.extract_features "
                "loads a model by name"
            )
        if batch_size < 1:
            raise ValueError(f"{option('batch_size')} must be 1 or more; got {batch_size}")
        self.model, self.views, self.seed = model, views, seed
        self.project, self.average, self.batch_size = project, average, batch_size
        parameter = next(model.parameters(), torch.empty(0))
        self.device, self.dtype = parameter.device, parameter.dtype
        join(cpu=self.device.type == "cpu")
        self.precision = resolve_precision(precision, self.device)
        images = len(source.dataset)
        self.source_rows = range(images) if rows is None else rows
        self.batches = -(-len(self.source_rows) // batch_size)
        self.met = BrokenImages(images) if met is None else met
        self.broken: dict[int, str] = {}
        self.transform = transform
        if transform is None:
            try:
                self.transform = create_transform(model)
            except AttributeError as error:
                raise ValueError(
                    f"a {type(model).__name__} does not say what input it takes: give transform"
                ) from error
        ours = isinstance(self.transform, EvalTransform)
        self.source = source
        if ours:
            self.source = source.as_trained(self.transform.value_range, self.transform.background)
        if views is not None and ours:
            mean, std = tuple(self.transform.mean), tuple(self.transform.std)
            options = replace(views.options, mean=mean, std=std)
            self.views = MultiView(options, views=views.views, size=views.size)

    def __len__(self) -> int:
        return len(self.source_rows)

    def places(self, batch: int) -> range:
        """Return the places of the images of a batch."""
        first = batch * self.batch_size
        return range(first, min(first + self.batch_size, len(self)))

    def width(self) -> int:
        """Return the width of the features, computed from the first readable image.

        Raises:
            ValueError: If none is readable, or too many before it are not.
        """
        for found in self._run(([place] for place in range(len(self))), 0):
            if found.features is not None:
                return found.features.shape[-1]
        raise self._unreadable()

    def readable(self) -> Tensor:
        """Exchange the broken images and name them; every process calls it after its batches.

        Returns:
            Places of the readable images, (n,), rising.

        Raises:
            ValueError: If too many images are broken (`check_broken`), or none is readable.
        """
        self.met.add(self.broken.values())
        self.met.share()
        broken = set().union(*gather_objects(set(self.broken)))
        if len(broken) == len(self):
            raise self._unreadable()
        whole = torch.ones(len(self), dtype=torch.bool)
        whole[list(broken)] = False
        return whole.nonzero()[:, 0]

    def _unreadable(self) -> ValueError:
        why = next(iter([*self.broken.values(), *self.met]))
        return ValueError(f"none of the {len(self):,} images can be read: {why}")

    def given(self) -> dict[str, str]:
        """Return digests of all that the features depend on, by what each is."""
        from datasets.fingerprint import Hasher

        views = self.views and (self.views.options, self.views.views, self.views.size, self.seed)
        return {
            "models": model_digest(self.model),
            "images": images_digest(self.source),
            "views": f"{views}",
            "transforms": Hasher.hash(self.transform),  # by its code, not by its address
            "choices of features or projections": f"{self.project}",
            "batch sizes": f"{self.batch_size}",
            "precisions": self.precision,
        }

    def fingerprint(self) -> str:
        """Return a digest of all that the output depends on."""
        return hashlib.sha256(f"{_FORMAT} {self.given()}".encode()).hexdigest()

    def run(
        self, batches: Sequence[int], workers: int, stage: Stage | None = None
    ) -> Iterator[BatchFeatures]:
        """Yield the features of each batch.

        Raises:
            ValueError: If too many images are broken (`check_broken`).
        """
        places = [list(self.places(batch)) for batch in batches]
        for found in self._run(places, workers if len(batches) > 1 else 0):
            if stage is not None:
                stage.update(len(self.places(found.number)))
            yield found

    def _run(self, batches: Iterable[list[int]], workers: int) -> Iterator[BatchFeatures]:
        """Yield the features of lists of places, each within a batch."""
        with explain_lost_workers("effssl.extract_features"):
            context = start_method(workers)
        loader = DataLoader(
            ImagesAt(self.source, self.source_rows, self.transform, self.views),
            batch_sampler=batches,
            collate_fn=partial(pack, channels=None if self.views is None else self.source.in_chans),
            num_workers=workers,
            multiprocessing_context=context,
            pin_memory=self.device.type == "cuda" and workers > 0,  # by a thread
        )
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            for places, images, kept, why in _loaded(loader):
                number = places[0] // self.batch_size
                broken = {places[i]: message for i, message in why.items()}
                self._note(broken)
                features = None
                if kept:
                    # inference mode would keep a probe from using the features in autograd
                    with torch.no_grad():
                        features = self._features(images, kept, number).float().cpu()
                yield BatchFeatures(number, features, broken)
        finally:
            for module, training in modes:
                module.training = training

    def _note(self, broken: dict[int, str]) -> None:
        """Note broken images, and stop at once if they are too many already."""
        self.broken |= broken
        try:
            check_broken(self.broken.values(), self.met.num_images, self.met.max_broken)
        except ValueError as error:
            if world_size() > 1:  # the launcher may end this process before it can print
                logger.error("process %d: %s", dist.get_rank(), error)
            raise

    def _features(self, images: Tensor | Batch, kept: list[int], batch: int) -> Tensor:
        """Features of the images at some places of a batch."""
        if self.views is None:
            images = to_device(images, self.device)
            if isinstance(self.transform, EvalTransform):
                images = self.transform.normalize(images)
            return self._forward(images)
        # drawn for the whole batch, so that a broken image does not change the views of others
        generator = seeded_generator(self.seed, "features", batch)
        draws = self.views.draw(len(self.places(batch)), generator, channels=images.channels)
        draws = {name: values[:, kept] for name, values in draws.items()}
        plan = self.views.plan(draws, images.sizes, images.starts, channels=images.channels)
        pixels = to_device(images.pixels, self.device)
        views = self.views.render(pixels, plan, channels=images.channels)
        features = [self._forward(view) for view in views]
        stacked = torch.stack(features)
        return stacked.mean(0) if self.average else stacked

    def _forward(self, images: Tensor) -> Tensor:
        images = images.to(self.dtype)
        with autocast(self.precision, self.device):
            return self.model(images, project=True) if self.project else self.model(images)


def _loaded(loader: DataLoader) -> Iterator[tuple]:
    with explain_lost_workers("effssl.extract_features"):
        yield from loader

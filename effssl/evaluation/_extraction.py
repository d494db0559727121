"""Feature extraction, batch by batch."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from effssl.data._decode import BrokenImage, image_name, open_image
from effssl.data._loader import Batch, collate, decode_or_broken, decode_size
from effssl.data.sources import Source
from effssl.device import to_device
from effssl.distributed import join, world_size
from effssl.evaluation._device import Precision, autocast, resolve_precision
from effssl.processes import explain_lost_workers, start_method
from effssl.seeding import seeded_generator
from effssl.transform import EvalTransform, create_transform
from effssl.views import MultiView

logger = logging.getLogger(__name__)

_EVERY = "features need every image"


class Extraction:
    """A model, images and options, and the features that they give batch by batch.

    The arguments are those of `effssl.evaluation.extract_features`.

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

    Raises:
        TypeError: If model is not a module.
        ValueError: If there is no transform, or the precision is unknown.
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
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model must be a module, got {type(model).__name__}; effssl.extract_features "
                "loads a model by name"
            )
        self.model, self.views, self.seed = model, views, seed
        self.project, self.average, self.batch_size = project, average, batch_size
        parameter = next(model.parameters(), torch.empty(0))
        self.device, self.dtype = parameter.device, parameter.dtype
        join(cpu=self.device.type == "cpu")
        self.precision = resolve_precision(precision, self.device)
        self.batches = -(-len(source.dataset) // batch_size)
        self.transform = transform
        if transform is None:
            try:
                self.transform = create_transform(model)
            except AttributeError as error:
                raise ValueError(
                    f"a {type(model).__name__} does not say what input it takes: give transform"
                ) from error
        ours = isinstance(self.transform, EvalTransform)
        self.source = source.with_range(self.transform.value_range) if ours else source
        if views is not None and ours:
            mean, std = tuple(self.transform.mean), tuple(self.transform.std)
            options = replace(views.options, mean=mean, std=std)
            self.views = MultiView(options, views=views.views, size=views.size)

    def rows(self, batch: int) -> range:
        """Return the rows of a batch."""
        first = batch * self.batch_size
        return range(first, min(first + self.batch_size, len(self.source.dataset)))

    def width(self) -> int:
        """Return the width of the features, computed from one image."""
        (features,) = (features for _, features in self.run([0], 0, first_only=True))
        return features.shape[-1]

    def fingerprint(self) -> str:
        """Return a digest of all that the output depends on."""
        from datasets.fingerprint import Hasher

        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
        what = self.views and (self.views.options, self.views.views, self.views.size, self.seed)
        how = Hasher.hash(self.transform)  # by its code, not by its address
        digest.update(f"{self.model} {what} {how} {self.project} {self.batch_size}".encode())
        digest.update(self.precision.encode())
        digest.update(f"{self.source.value_range} {self.source.digest()}".encode())
        if self.source.label_column is not None:  # written to the output
            digest.update(repr(self.source.dataset[self.source.label_column][:]).encode())
        return digest.hexdigest()

    def run(
        self,
        batches: Sequence[int],
        workers: int,
        bar: tqdm | None = None,
        *,
        first_only: bool = False,
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the number and features of each batch, (n, F), or (V, n, F) if not averaged."""
        workers = workers if len(batches) > 1 else 0
        loader = DataLoader(
            _Images(self.source, self.transform, self.views),
            batch_sampler=[list(self.rows(b))[: 1 if first_only else None] for b in batches],
            collate_fn=_stack
            if self.views is None
            else partial(_packed, channels=self.source.in_chans),
            num_workers=workers,
            multiprocessing_context=start_method(workers),
            pin_memory=self.device.type == "cuda" and workers > 0,  # by a thread
        )
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            for batch, images in zip(batches, _loaded(loader), strict=True):
                if isinstance(images, BrokenImage):
                    if world_size() > 1:  # the launcher may end this process before it can print
                        logger.error("process %d: %s", dist.get_rank(), images)
                    raise images
                # inference mode would keep a probe from using the features in autograd
                with torch.no_grad():
                    features = self._features(images, batch).float().cpu()
                if bar is not None:
                    bar.update(len(self.rows(batch)))
                yield batch, features
        finally:
            for module, training in modes:
                module.training = training

    def _features(self, images: Tensor | Batch, batch: int) -> Tensor:
        if self.views is None:
            images = to_device(images, self.device)
            if isinstance(self.transform, EvalTransform):
                images = self.transform.normalize(images)
            return self._forward(images)
        generator = seeded_generator(self.seed, "features", batch)
        draws = self.views.draw(len(images.sizes), generator, channels=images.channels)
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


class _Images(Dataset):
    def __init__(self, source: Source, transform: Callable | None, views: MultiView | None) -> None:
        self.source, self.views = source, views
        ours = isinstance(transform, EvalTransform)
        self.transform = transform.crop_pixels if ours else transform  # pixels are mapped already

    def __len__(self) -> int:
        return len(self.source.dataset)

    def __getitems__(self, rows: list[int]) -> list[Tensor | BrokenImage]:
        values = self.source.dataset[rows][self.source.image_column]
        return [self._read(row, value) for row, value in zip(rows, values, strict=True)]

    def _read(self, row: int, value: object) -> Tensor | BrokenImage:
        if self.views is not None:
            # at the size at which training caches images
            side = decode_size(self.views.size)
            return decode_or_broken(value, f"row {row}", self.source, side)
        try:
            image = open_image(
                value,
                self.source.in_chans,
                value_range=self.source.value_range,
                max_pixels=self.source.max_pixels,
            )
        except BrokenImage as error:
            return BrokenImage(f"{image_name(value, f'row {row}')}: {error}")
        return self.transform(image)


def _loaded(loader: DataLoader) -> Iterator[Tensor | Batch | BrokenImage]:
    with explain_lost_workers("effssl.extract_features"):
        yield from loader


def _stack(images: list[Tensor | BrokenImage]) -> Tensor | BrokenImage:
    # returned, because an error raised in a worker has its traceback as its message
    broken = [image for image in images if isinstance(image, BrokenImage)]
    return BrokenImage(f"{broken[0]}; {_EVERY}") if broken else torch.stack(images)


def _packed(images: list[Tensor | BrokenImage], channels: int) -> Batch | BrokenImage:
    batch = collate(images, channels)
    return BrokenImage(f"{batch.broken[0]}; {_EVERY}") if batch.broken else batch

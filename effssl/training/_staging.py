"""Copies the next batch to the device while it computes the current step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from effssl.data._loader import Batch, BatchShard
from effssl.device import to_device
from effssl.distributed import gather_counts
from effssl.seeding import seeded_generator
from effssl.views import MultiView

_FUSED = "cuda"  # type of device whose kernels read the plan on the device


class Chunk(NamedTuple):
    """Images of a batch that pass through the backbone together.

    Attributes:
        plans: Plan of the views of each size, shape (P, V * n), on the CPU; see `MultiView.plan`.
        device_plans: Copies of the plans on a GPU; None on other devices.
        counts: Number of images of the chunk on each process.
    """

    plans: list[Tensor]
    device_plans: list[Tensor] | list[None]
    counts: list[int]


class StagedBatch(NamedTuple):
    """This process's part of a global batch, on the device or being copied there.

    Attributes:
        pixels: Flat pixels as in `Batch`, on the device.
        channels: Channels of the images.
        chunks: Chunks of images, one for each pass through the backbone.
        broken: Error of each broken image.
        copied: Event recorded after the copies; None if they are not asynchronous.
    """

    pixels: Tensor
    channels: int
    chunks: list[Chunk]
    broken: list[str]
    copied: torch.cuda.Event | None

    @property
    def images(self) -> list[int]:
        """Number of images on each process."""
        return [
            sum(of_process) for of_process in zip(*(c.counts for c in self.chunks), strict=True)
        ]

    def wait(self) -> None:
        """Make later work of the device wait for the copies; the host does not wait."""
        if self.copied is None:
            return
        stream = torch.cuda.current_stream()
        stream.wait_event(self.copied)
        for tensor in (self.pixels, self.chunks[0].device_plans[0]):  # plans share their memory
            tensor.record_stream(stream)  # or its memory could be reused while it is read


class Stager:
    """Draws the views of a batch and copies it to the device, without waiting.

    A batch takes two copies from pinned memory, its pixels and the plans of its views. They run on
    a stream of their own.

    Args:
        views: Views of each size.
        local: This process's part of every batch.
        seed: Seed of the run.
        device: Device of the model.
    """

    def __init__(
        self, views: Sequence[MultiView], local: BatchShard, seed: int, device: torch.device
    ) -> None:
        self.views, self.local, self.seed, self.device = views, local, seed, device
        self.stream = None
        # it is initialized if the model is there
        if device.type == "cuda" and torch.cuda.is_initialized():
            self.stream = torch.cuda.Stream(device)

    def __call__(self, batch: Batch, step: int) -> StagedBatch:
        """Start to copy a batch.

        The views are drawn for the whole global batch, so they do not depend on the number of
        processes.

        Args:
            batch: This process's images.
            step: Number of steps done before, which determines the views.
        """
        generator = seeded_generator(self.seed, "views", step)
        parts = self.local.chunks(batch.rows)
        plans: list[list[Tensor]] = [[] for _ in parts]
        for multi_view in self.views:
            draws = multi_view.draw(self.local.batch_size, generator, channels=batch.channels)
            places = self.local.places[batch.rows]
            draws = {name: values[:, places] for name, values in draws.items()}
            for part, of_chunk in zip(parts, plans, strict=True):
                of_part = {name: values[:, part] for name, values in draws.items()}
                sizes, starts = batch.sizes[part], batch.starts[part]
                of_chunk.append(multi_view.plan(of_part, sizes, starts, channels=batch.channels))
        counts = gather_counts([p[0].shape[1] // self.views[0].views for p in plans])
        pixels, on_device, copied = self._copy(batch.pixels, plans)
        chunks = [Chunk(*of_chunk) for of_chunk in zip(plans, on_device, counts, strict=True)]
        return StagedBatch(pixels, batch.channels, chunks, batch.broken, copied)

    def _copy(
        self, pixels: Tensor, plans: list[list[Tensor]]
    ) -> tuple[Tensor, list[list[Tensor] | list[None]], torch.cuda.Event | None]:
        if self.device.type != _FUSED:  # its views are made from plans on the host
            return pixels.to(self.device), [[None] * len(self.views)] * len(plans), None
        # the plans follow each other, so that each is contiguous
        every = [plan for of_chunk in plans for plan in of_chunk]
        flat = torch.cat([plan.flatten() for plan in every])
        with torch.cuda.stream(self.stream):
            pixels, flat = to_device(pixels, self.device), to_device(flat, self.device)
        copies = iter(flat.split([plan.numel() for plan in every]))
        on_device = [[next(copies).view_as(plan) for plan in of_chunk] for of_chunk in plans]
        return pixels, on_device, self.stream and self.stream.record_event()


class StagedBatches:
    """Iterates over the batches of an epoch and can stage the next one ahead.

    Args:
        batches: Loaded batches.
        stage: Function that stages a batch, given the number of steps before it.
        step: Number of steps before the first batch.
    """

    def __init__(
        self, batches: Iterator[Batch], stage: Callable[[Batch, int], StagedBatch], step: int
    ) -> None:
        self._batches, self._stage, self._step = batches, stage, step
        self._next: StagedBatch | None = None

    def prefetch(self) -> None:
        """Load and stage the next batch, unless it is staged or the epoch ends."""
        if self._next is None and (batch := next(self._batches, None)) is not None:
            self._next = self._stage(batch, self._step)
            self._step += 1

    def __iter__(self) -> Iterator[StagedBatch]:
        while True:
            self.prefetch()
            if self._next is None:
                return
            batch, self._next = self._next, None
            yield batch

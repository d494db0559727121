"""Gradient of a global batch, passed through the backbone whole or in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from effssl.chunk_statistics import ChunkStatistics, kept_statistics
from effssl.distributed import all_reduce_, rows_known, world_size
from effssl.own import takes
from effssl.seeding import derived_seed, seeded_generator
from effssl.training._staging import StagedBatch
from effssl.views import MultiView


class StepOutput(NamedTuple):
    """Result of a `TrainStep`, which leaves the gradient in the parameters.

    Attributes:
        loss: Loss of the global batch, a scalar.
        parts: Parts of the loss by name, scalars.
        features: Features of the first view of this process's images, shape (n, F), or None.
        projections: Projections of the same, shape (n, D), or None.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    features: Tensor | None
    projections: Tensor | None


class TrainStep:
    """Computes the gradient of the loss over a global batch.

    In chunks, the features of all chunks are computed without a graph, then the loss of the whole
    batch and its gradient at the features, and in a second pass over each chunk the gradient of
    the backbone. The result is the gradient of the whole batch, for one more forward pass and the
    memory of one chunk. Batch norm in the backbone uses the statistics of a chunk.

    In the steps in which the backbone is frozen it is in eval mode, so that it computes the same of
    an image whatever the batch is, and the gradient is that of the projector alone.

    Views of each size pass through the backbone by themselves; the projector and the loss see all.

    Args:
        accelerator: Accelerator that has prepared the model.
        model: The prepared `SSLModel`.
        views: Views of each size.
        loss_fn: Loss of projections of shape (V, n, D), from `create_loss`.
        seed: Seed of the run, for dropout and what the loss draws.
        fp64: Compute in float64.
        in_chunks: Pass the chunks of a batch one at a time.
        frozen_steps: Steps at the start in which the backbone is frozen.
        recomputes: Whether the backbone computes its blocks again in the backward pass.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        views: Sequence[MultiView],
        loss_fn: Callable,
        *,
        seed: int,
        fp64: bool = False,
        in_chunks: bool = False,
        frozen_steps: int = 0,
        recomputes: bool = False,
    ) -> None:
        self.accelerator = accelerator
        self.model, self.net = model, accelerator.unwrap_model(model)
        self.views, self.loss_fn = views, loss_fn
        self.loss_draws = takes(loss_fn, "generator")
        self.seed, self.fp64, self.in_chunks = seed, fp64, in_chunks
        self.frozen_steps, self.recomputes = frozen_steps, recomputes
        self.dtype = torch.float64 if fp64 else torch.float32
        # on a GPU autocast would cast the views in the first layer; on a CPU they stay as they are
        if accelerator.device.type == "cuda":
            reduced = {"bf16": torch.bfloat16, "fp16": torch.float16}
            self.dtype = reduced.get(accelerator.mixed_precision, self.dtype)

    def __call__(self, batch: StagedBatch, step: int, *, watch: bool = False) -> StepOutput:
        """Write the gradient of a batch to the parameters, which must have none.

        Args:
            batch: This process's images.
            step: Number of steps done before, which determines dropout.
            watch: Also return features and projections.
        """
        batch.wait()
        if self.fp64:
            batch = batch._replace(pixels=batch.pixels.double() / 255)
        compute = self._in_chunks if self.in_chunks else self._whole
        if step < self.frozen_steps:
            compute = self._frozen
        with rows_known(batch.images):
            return compute(batch, step, watch)

    def _whole(self, batch: StagedBatch, step: int, watch: bool) -> StepOutput:
        seen: list[Tensor] = []
        hook = self.net.projector.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with hook:
            z = self._pass(self._project, batch, step, 0)
        loss, parts = self._loss(z, step)
        # batch norms must not count a batch again when their outputs are computed again
        with kept_statistics(self.net.backbone) if self.recomputes else nullcontext():
            self.accelerator.backward(loss)
        if not watch:
            return StepOutput(loss.detach(), parts, None, None)
        return StepOutput(loss.detach(), parts, seen[0][: z.shape[1]].detach(), z[0].detach())

    def _in_chunks(self, batch: StagedBatch, step: int, watch: bool) -> StepOutput:
        passes = _passes(batch)
        with ChunkStatistics(self.net.backbone).one_update() as statistics:
            features = []
            for place, i in enumerate(passes):
                statistics.weigh(place)
                with torch.no_grad():
                    features.append(self._pass(self._features, batch, step, i))
            sizes = [part.shape[1] for part in features]
            features = torch.cat(features, dim=1).requires_grad_()
            output = self._project_features(features, step, watch)
            statistics.weigh(None)
            for i, grad in zip(passes, features.grad.split(sizes, dim=1), strict=True):
                self._pass(self._features, batch, step, i).backward(grad)
        self._average_gradients()
        return output

    def _frozen(self, batch: StagedBatch, step: int, watch: bool) -> StepOutput:
        backbone = self.net.backbone.eval()
        with torch.no_grad():
            features = [self._pass(self._features, batch, step, i) for i in _passes(batch)]
        backbone.train()
        output = self._project_features(torch.cat(features, dim=1), step, watch)
        self._average_gradients()
        return output

    def _loss(self, z: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts; what it draws depends on the seed and the step alone."""
        if self.loss_draws:
            generator = seeded_generator(self.seed, "loss", step)
            return self.loss_fn(z, return_parts=True, generator=generator)
        return self.loss_fn(z, return_parts=True)

    def _project_features(self, features: Tensor, step: int, watch: bool) -> StepOutput:
        """Write the gradient of the projector, and that of the features if they need one.

        Args:
            features: Features of all views of a batch, (V, n, F).
            step: Number of steps done before.
            watch: Also return features and projections.
        """
        with self.accelerator.autocast():
            z = self.net.projector(features.flatten(0, 1))
        z = z.reshape(*features.shape[:2], z.shape[-1])
        loss, parts = self._loss(z, step)
        self.accelerator.backward(loss)
        watched = (features[0].detach(), z[0].detach()) if watch else (None, None)
        return StepOutput(loss.detach(), parts, *watched)

    def _project(self, x: list[Tensor]) -> Tensor:
        return self.model(x, project=True)

    def _features(self, x: list[Tensor]) -> Tensor:
        with self.accelerator.autocast():
            features = self.net.features(x)
        return features if features.dtype == torch.float64 else features.float()

    def _pass(
        self, network: Callable[[list[Tensor]], Tensor], batch: StagedBatch, step: int, number: int
    ) -> Tensor:
        """Output of a network for the views of all sizes of a chunk, (V, n, ...)."""
        rank = self.accelerator.process_index
        torch.manual_seed(derived_seed(self.seed, "dropout", step, rank, number))
        chunk = batch.chunks[number]
        of_sizes = zip(self.views, chunk.plans, chunk.device_plans, strict=True)
        rendered = [
            multi_view.render(
                batch.pixels,
                plan,
                channels=batch.channels,
                device_plan=device_plan,
                dtype=self.dtype,
            )
            for multi_view, plan, device_plan in of_sizes
        ]  # (V, n, C, S, S) each
        out = network(
            [x.flatten(0, 1).contiguous(memory_format=torch.channels_last) for x in rendered]
        )
        count = sum(len(x) for x in rendered)
        return out.reshape(count, rendered[0].shape[1], out.shape[-1])  # unflatten refuses n = 0

    def _average_gradients(self) -> None:
        """Average gradients as DDP does, which expects one backward pass through the model."""
        if world_size() == 1:
            return
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        flat = all_reduce_(torch.cat([gradient.flatten() for gradient in gradients])) / world_size()
        parts = flat.split([gradient.numel() for gradient in gradients])
        means = [mean.view_as(g) for g, mean in zip(gradients, parts, strict=True)]
        torch._foreach_copy_(gradients, means)  # has no public name


def _passes(batch: StagedBatch) -> list[int]:
    """Return the numbers of the chunks that hold images; every process takes part in them.

    It does so without images of its own, since statistics of a chunk are of all processes.
    """
    return [i for i, chunk in enumerate(batch.chunks) if sum(chunk.counts)] or [0]

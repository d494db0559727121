"""The gradient of one global batch, whole or in chunks of the backbone's passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from effssl.chunk_statistics import ChunkStatistics
from effssl.distributed import all_reduce_, rows_known, world_size
from effssl.seeding import derived_seed
from effssl.training._staging import StagedBatch
from effssl.training.config import PretrainConfig
from effssl.views import MultiView


class StepOutput(NamedTuple):
    """What was computed beside the gradient, which lies in the parameters.

    Attributes:
        loss: Of the global batch, a scalar.
        parts: Its parts, scalars.
        features: Of the first view of this process's images, (n, F); None if not asked for.
        projections: Likewise, (n, D).
    """

    loss: Tensor
    parts: dict[str, Tensor]
    features: Tensor | None
    projections: Tensor | None


class TrainStep:
    """Computes the gradient of the loss over a global batch.

    In chunks (``config.micro_batch``) the features of all chunks are computed without a graph,
    then the loss of the whole batch and its gradient at the features, and in a second pass of each
    chunk the gradient of the backbone: what the whole batch gives, for one more forward pass and
    the memory of one chunk. With batch norm in the backbone the statistics are those of a chunk.

    Args:
        accelerator: Accelerate, with the model prepared.
        config: Configuration of the run.
        model: The prepared `SSLModel`.
        multi_view: Makes the views.
        loss_fn: Of projections, (V, n, D), as `create_loss` gives it.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: PretrainConfig,
        model: torch.nn.Module,
        multi_view: MultiView,
        loss_fn: Callable,
    ) -> None:
        self.accelerator, self.config = accelerator, config
        self.model, self.net = model, accelerator.unwrap_model(model)
        self.multi_view, self.loss_fn = multi_view, loss_fn
        self.dtype = torch.float64 if config.precision == "fp64" else torch.float32
        # the first layer would make them so; on a CPU views stay as they were made
        if accelerator.device.type == "cuda":
            reduced = {"bf16": torch.bfloat16, "fp16": torch.float16}
            self.dtype = reduced.get(accelerator.mixed_precision, self.dtype)

    def __call__(self, batch: StagedBatch, step: int, *, watch: bool = False) -> StepOutput:
        """Put the gradient of a batch into the parameters, which must have none.

        Args:
            batch: This process's images.
            step: Steps done before; dropout follows from it.
            watch: Also return features and projections.
        """
        batch.wait()
        if self.config.precision == "fp64":
            batch = batch._replace(pixels=batch.pixels.double() / 255)
        compute = self._whole if self.config.micro_batch is None else self._in_chunks
        with rows_known(batch.images):
            return compute(batch, step, watch)

    def _whole(self, batch: StagedBatch, step: int, watch: bool) -> StepOutput:
        seen: list[Tensor] = []
        hook = self.net.projector.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with hook:
            z = self._pass(self._project, batch, step, 0)
        loss, parts = self.loss_fn(z, return_parts=True)
        self.accelerator.backward(loss)
        if not watch:
            return StepOutput(loss.detach(), parts, None, None)
        return StepOutput(loss.detach(), parts, seen[0][: z.shape[1]].detach(), z[0].detach())

    def _in_chunks(self, batch: StagedBatch, step: int, watch: bool) -> StepOutput:
        # with more processes, all take part in the statistics of a chunk
        passes = [i for i, chunk in enumerate(batch.chunks) if sum(chunk.counts)] or [0]
        with ChunkStatistics(self.net.backbone).one_update() as statistics:
            features = []
            for place, i in enumerate(passes):
                statistics.weigh(place)
                with torch.no_grad():
                    features.append(self._pass(self._features, batch, step, i))
            sizes = [part.shape[1] for part in features]
            features = torch.cat(features, dim=1).requires_grad_()
            with self.accelerator.autocast():
                z = self.net.projector(features.flatten(0, 1))
            z = z.reshape(*features.shape[:2], z.shape[-1])
            loss, parts = self.loss_fn(z, return_parts=True)
            self.accelerator.backward(loss)
            statistics.weigh(None)
            for i, grad in zip(passes, features.grad.split(sizes, dim=1), strict=True):
                self._pass(self._features, batch, step, i).backward(grad)
        self._average_gradients()
        watched = (features[0].detach(), z[0].detach()) if watch else (None, None)
        return StepOutput(loss.detach(), parts, *watched)

    def _project(self, x: Tensor) -> Tensor:
        return self.model(x, project=True)

    def _features(self, x: Tensor) -> Tensor:
        with self.accelerator.autocast():
            features = self.net.backbone(x)
        return features if features.dtype == torch.float64 else features.float()

    def _pass(
        self, network: Callable[[Tensor], Tensor], batch: StagedBatch, step: int, number: int
    ) -> Tensor:
        """What a network makes of the views of a chunk, (V, n, ...)."""
        rank = self.accelerator.process_index
        torch.manual_seed(derived_seed(self.config.seed, "dropout", step, rank, number))
        chunk = batch.chunks[number]
        views = self.multi_view.render(
            batch.pixels,
            chunk.plan,
            channels=batch.channels,
            device_plan=chunk.device_plan,
            dtype=self.dtype,
        )  # (V, n, C, S, S)
        flat = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        out = network(flat)
        return out.reshape(*views.shape[:2], out.shape[-1])  # unflatten refuses n = 0

    def _average_gradients(self) -> None:
        """As DDP does, whose own way takes one backward pass through all of the model."""
        if world_size() == 1:
            return
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        flat = all_reduce_(torch.cat([gradient.flatten() for gradient in gradients])) / world_size()
        parts = flat.split([gradient.numel() for gradient in gradients])
        means = [mean.view_as(g) for g, mean in zip(gradients, parts, strict=True)]
        torch._foreach_copy_(gradients, means)

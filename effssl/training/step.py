"""The gradient of one global batch, whole or in chunks of the backbone's passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from effssl.batch_norm import ChunkStatistics
from effssl.data.loader import Batch, LocalPart
from effssl.distributed import sum_, world_size
from effssl.seeding import derived_seed, seeded_generator
from effssl.training.config import PretrainConfig
from effssl.views import MultiView


class Gradient(NamedTuple):
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


class GradientOfBatch:
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
        local: This process's part of every batch.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: PretrainConfig,
        model: torch.nn.Module,
        multi_view: MultiView,
        loss_fn: Callable,
        local: LocalPart,
    ) -> None:
        self.accelerator, self.config = accelerator, config
        self.model, self.net = model, accelerator.unwrap_model(model)
        self.multi_view, self.loss_fn, self.local = multi_view, loss_fn, local

    def __call__(self, batch: Batch, step: int, *, watch: bool = False) -> Gradient:
        """Put the gradient of a batch into the parameters, which must have none.

        Args:
            batch: This process's images.
            step: Steps done before; views and dropout follow from it.
            watch: Also return features and projections.
        """
        draws = self.multi_view.draw(
            self.config.batch_size,
            seeded_generator(self.config.seed, "views", step),
            channels=self.config.in_chans,
        )
        draws = {k: values[:, self.local.places[batch.rows]] for k, values in draws.items()}
        compute = self._whole if self.config.micro_batch is None else self._in_chunks
        return compute(batch, draws, step, watch)

    def _whole(self, batch: Batch, draws: dict[str, Tensor], step: int, watch: bool) -> Gradient:
        seen: list[Tensor] = []
        hook = self.net.projector.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with hook:
            z = self._pass(self._project, batch, draws, step, 0, slice(None))
        loss, parts = self.loss_fn(z, return_parts=True)
        self.accelerator.backward(loss)
        if not watch:
            return Gradient(loss.detach(), parts, None, None)
        return Gradient(loss.detach(), parts, seen[0][: z.shape[1]].detach(), z[0].detach())

    def _in_chunks(
        self, batch: Batch, draws: dict[str, Tensor], step: int, watch: bool
    ) -> Gradient:
        chunks = self.local.chunks(batch.rows)
        if world_size() == 1:  # with more, every process takes part in the statistics of a chunk
            chunks = [chunk for chunk in chunks if chunk.start < chunk.stop]
        with ChunkStatistics(self.net.backbone).one_update() as statistics:
            features = []
            for i, chunk in enumerate(chunks):
                statistics.weigh(i)
                with torch.no_grad():
                    features.append(self._pass(self._features, batch, draws, step, i, chunk))
            sizes = [part.shape[1] for part in features]
            features = torch.cat(features, dim=1).requires_grad_()
            with self.accelerator.autocast():
                z = self.net.projector(features.flatten(0, 1))
            z = z.reshape(*features.shape[:2], z.shape[-1])
            loss, parts = self.loss_fn(z, return_parts=True)
            self.accelerator.backward(loss)
            statistics.weigh(None)
            for i, (chunk, grad) in enumerate(
                zip(chunks, features.grad.split(sizes, dim=1), strict=True)
            ):
                self._pass(self._features, batch, draws, step, i, chunk).backward(grad)
        self._average_gradients()
        watched = (features[0].detach(), z[0].detach()) if watch else (None, None)
        return Gradient(loss.detach(), parts, *watched)

    def _project(self, x: Tensor) -> Tensor:
        return self.model(x, project=True)

    def _features(self, x: Tensor) -> Tensor:
        with self.accelerator.autocast():
            features = self.net.backbone(x)
        return features if features.dtype == torch.float64 else features.float()

    def _pass(
        self,
        network: Callable[[Tensor], Tensor],
        batch: Batch,
        draws: dict[str, Tensor],
        step: int,
        number: int,
        chunk: slice,
    ) -> Tensor:
        """What a network makes of the views of a chunk, (V, n, ...)."""
        config = self.config
        torch.manual_seed(
            derived_seed(config.seed, "dropout", step, self.accelerator.process_index, number)
        )
        images = batch.images[chunk].to(self.accelerator.device, non_blocking=True)
        if config.precision == "fp64":
            images = images.double() / 255
        part = {name: values[:, chunk] for name, values in draws.items()}
        views = self.multi_view.apply(images, part, batch.sizes[chunk])  # (V, n, C, S, S)
        flat = views.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        out = network(flat)
        return out.reshape(*views.shape[:2], out.shape[-1])  # unflatten refuses n = 0

    def _average_gradients(self) -> None:
        """As DDP does, whose own way takes one backward pass through all of the model."""
        if world_size() == 1:
            return
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        flat = sum_(torch.cat([gradient.flatten() for gradient in gradients])) / world_size()
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, parts, strict=True):
            gradient.copy_(mean.view(gradient.shape))

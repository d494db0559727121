"""Running statistics of batch norm for a batch that passes through the model in parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class ChunkStatistics:
    """Update running statistics once for a batch that passes through the model in chunks.

    They move toward the mean of the chunks' statistics by one momentum, as for a batch in one pass:
    each chunk starts from the statistics before the batch, and the results are averaged. The
    momentum does not change, since a compiled model contains it.

    Args:
        model: Model in train mode, whose batch norms are tracked.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [
            module
            for module in model.modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
        ]
        self._batches: list[Tensor] = [norm.get_buffer("num_batches_tracked") for norm in norms]
        names = ("running_mean", "running_var")
        self._groups = _by_dtype([norm.get_buffer(name) for norm in norms for name in names])

    @contextmanager
    def one_update(self) -> Iterator[ChunkStatistics]:
        """Update once for all passes inside this context."""
        self._counting = False
        if not self._batches:
            yield self
            return
        self._batches_before = _copies(self._batches)
        self._before = [_copies(group) for group in self._groups]
        self._moved: list[list[Tensor]] = []
        self._chunks = torch.zeros_like(self._batches[0])
        try:
            yield self
        finally:
            self._count()
            self._finish()

    def weigh(self, chunk: int | None) -> None:
        """Announce the next pass.

        Args:
            chunk: Number of the chunk, from 0; None if the pass must not count.
        """
        if not self._batches:
            return
        self._count()
        self._counting = chunk is not None
        if self._counting:
            torch._foreach_copy_(self._batches, self._batches_before)
            for group, before in zip(self._groups, self._before, strict=True):
                torch._foreach_copy_(group, before)

    def _count(self) -> None:
        """Add the changes of the last pass; one without images on any process changed nothing."""
        if not self._counting:
            return
        self._counting = False
        counted = torch.stack(self._batches) > torch.stack(self._batches_before)
        self._chunks += counted.any()
        moved = [
            list(torch._foreach_sub(group, before))
            for group, before in zip(self._groups, self._before, strict=True)
        ]
        for sums, values in zip(self._moved, moved, strict=False):  # empty at first
            torch._foreach_add_(sums, values)
        self._moved = self._moved or moved

    def _finish(self) -> None:
        torch._foreach_copy_(self._batches, self._batches_before)
        torch._foreach_add_(self._batches, 1)
        chunks = self._chunks.clamp(min=1)
        for group, before in zip(self._groups, self._before, strict=True):
            torch._foreach_copy_(group, before)
        for group, moved in zip(self._groups, self._moved, strict=False):
            torch._foreach_div_(moved, chunks.to(group[0].dtype))
            torch._foreach_add_(group, moved)


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch norms in train mode as they are.

    They are put back afterwards, so that what is computed and saved meanwhile is the same as
    without: blocks that are computed again in the backward pass save the same tensors again.

    Args:
        model: Model that normalizes by the statistics of each batch inside this context.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.training
    ]
    groups = _by_dtype([buffer for norm in norms for buffer in norm.buffers(recurse=False)])
    before = [_copies(group) for group in groups]
    try:
        yield
    finally:
        for group, values in zip(groups, before, strict=True):
            # data: a graph holds these buffers and refuses them if changed, but in train mode a
            # gradient does not depend on them
            torch._foreach_copy_([buffer.data for buffer in group], values)


def _by_dtype(tensors: list[Tensor]) -> list[list[Tensor]]:
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    copies = [torch.empty_like(tensor) for tensor in tensors]
    torch._foreach_copy_(copies, tensors)
    return copies

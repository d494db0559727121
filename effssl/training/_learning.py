"""Words that say whether a run learns: its loss, accuracy and ranks beside what they can be."""

from __future__ import annotations

import math
from collections.abc import Mapping

from effssl.loss_specs import LOSSES, Shape
from effssl.training.config import PretrainConfig


class LossScale:
    """Scale of the loss of a run.

    Args:
        config: Configuration of the run.

    Attributes:
        blank: Loss of projections that are the same for all images; NaN for a loss of one's own,
            whose scale is not known.
    """

    def __init__(self, config: PretrainConfig) -> None:
        self._name, self._spec = config.loss, LOSSES.get(config.loss)
        views, dim, weight = config.all_views, config.projector_dim, config.loss_weight
        global_views = views if config.local_pairs else config.views
        self._shape = Shape(views, config.batch_size, dim, global_views)
        self.blank = math.nan
        if self._spec is None:
            return
        self._weight = self._spec.default_weight(dim) if weight is None else weight
        self.blank = self._spec.blank(self._shape, self._weight)

    def explain(self) -> str:
        """Return a sentence about what the loss and its parts can be."""
        if self._spec is None:
            return f"The loss is {self._name}, of one's own, whose scale is not known"
        return self._spec.explain(self._shape, self._weight)

    def nothing_learned(self, loss: float) -> bool:
        """Return whether a loss is about that of projections that do not tell images apart."""
        return self._spec is not None and loss >= self._spec.nothing_from * self.blank

    def of_loss(self, loss: float) -> str:
        """Return a loss beside its scale, such as ``loss 180.2 of 256``."""
        if not math.isfinite(loss):
            return f"loss {loss}"
        if self._spec is None:
            return f"loss {loss:.4g}"
        if loss > self.blank:
            return f"loss {loss:.4g}, above {self.blank:.4g}: nothing learned yet"
        said = f"loss {loss:.4g} of {self.blank:.4g}"
        return said + ": nothing learned yet" if self.nothing_learned(loss) else said

    def of_parts(self, parts: Mapping[str, float]) -> str:
        """Return parts of the loss beside their scales, such as ``invariance 0.6 of 1``."""
        said = []
        for name, value in parts.items():
            scale = self._spec.parts.get(name) if self._spec else None
            of = "" if scale is None else f" of {scale.value(self._shape):.4g}"
            said.append(f"{name} {value:.3g}{of}")
        return ", ".join(said)


def of_knn(knn: float, at_start: float | None) -> str:
    """Return an accuracy beside that of the weights at the start, both in percent."""
    start = "" if at_start is None else f" (at the start {at_start:.1f} %)"
    return f"k-NN {knn:.1f} %{start}"


def of_ranks(signs: Mapping[str, float], largest: Mapping[str, int]) -> str:
    """Return effective ranks beside what batch and width allow.

    Args:
        signs: Result of `collapse_signs`.
        largest: Largest rank of ``feature`` and of ``projection``.
    """
    said = [
        f"{name}s {signs[f'{name}_rank']:.0f} of at most {most}" for name, most in largest.items()
    ]
    return "effective rank of " + ", ".join(said)

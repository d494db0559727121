"""Names of pretrained models, such as ``resnet50-bt-p256-aug4-fashion-mnist``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from effssl.loss_specs import LOSSES

_FORM = "{backbone}-{loss}-p{projector_dim}-aug{views}"
_NAME = re.compile(
    r"(?P<backbone>\w+(?:\.\w+)?)-(?P<loss>" + "|".join(LOSSES) + r")"
    r"-p(?P<projector_dim>[1-9]\d*)-aug(?P<views>[1-9]\d*)(?:-(?P<data>[a-z0-9][a-z0-9.-]*))?",
    re.ASCII,
)


@dataclass(frozen=True)
class ModelName:
    """What the name of a pretrained model says; ``str`` prints it and `parse` reads it.

    Attributes:
        backbone: timm's name; with the tag of the weights that training started from, if any.
        loss: ``bt``, ``vicreg`` or ``spectral``.
        projector_dim: Width D of the projector.
        views: Views per image.
        data: What it was trained on, such as ``fashion-mnist``; None if the name does not say.
    """

    backbone: str
    loss: str
    projector_dim: int
    views: int
    data: str | None = None

    @classmethod
    def parse(cls, name: str) -> ModelName:
        """Read a name, whose owner (``org/``) is left out.

        Raises:
            ValueError: If it is not the name of a model of effssl.
        """
        found = _NAME.fullmatch(name.rpartition("/")[2])
        if not found:
            raise ValueError(f"{name!r} is no model name: names are {_FORM}, then -data")
        parts = found.groupdict()
        return cls(
            *(parts["backbone"], parts["loss"]),
            *(int(parts["projector_dim"]), int(parts["views"]), parts["data"]),
        )

    def __str__(self) -> str:
        name = _FORM.format(**vars(self))
        return f"{name}-{self.data}" if self.data else name

    @property
    def timm_tag(self) -> str:
        """The tag of the weights in timm's form, ``barlow_p256_aug4``; there ``bt`` is taken."""
        parts = [LOSSES[self.loss].timm_tag, f"p{self.projector_dim}", f"aug{self.views}"]
        return "_".join(parts + ([re.sub(r"\W", "_", self.data)] if self.data else []))

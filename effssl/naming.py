"""Names of pretrained models, such as ``resnet50-bt-p256-aug4-fashion-mnist``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from effssl.loss_specs import LOSSES
from effssl.own import word_of

_FORM = "{backbone}-{loss}-p{projector_dim}-aug{views}"
_NAME = re.compile(
    r"(?P<backbone>\w+(?:\.\w+)?)-(?P<loss>" + "|".join(LOSSES) + r"|own_\w+)"
    r"-p(?P<projector_dim>[1-9]\d*)-aug(?P<views>[1-9]\d*)(?:-(?P<data>[a-z0-9][a-z0-9.-]*))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Base:
    """Weights that a training went on from.

    Attributes:
        model: Repository on the Hub, name of a model in the package, or for a folder what it holds.
        license: Identifier of their license, or its name if the Hub has none for it; None if it is
            not known.
    """

    model: str
    license: str | None = None

    @property
    def repository(self) -> str | None:
        """Repository on the Hub, if it is one."""
        return self.model if "/" in self.model else None


@dataclass(frozen=True)
class ModelName:
    """Parts of the name of a pretrained model; `parse` reads a name, ``str`` writes it.

    Attributes:
        backbone: Name in timm, with the tag of the weights that training started from, if any.
        loss: Name of the loss, a key of `effssl.loss_specs.LOSSES`, or ``own_`` and the name of a
            function of one's own; see `loss_word`.
        projector_dim: Width D of the projector.
        views: Views per image.
        data: Training data, such as ``fashion-mnist``; None if the name does not say.
    """

    backbone: str
    loss: str
    projector_dim: int
    views: int
    data: str | None = None

    @classmethod
    def parse(cls, name: str) -> ModelName:
        """Read a name; an owner in front of it (``org/``) is ignored.

        Raises:
            ValueError: If the text is not such a name.
        """
        match = _NAME.fullmatch(name.rpartition("/")[2])
        if not match:
            raise ValueError(f"{name!r} is no model name: names are {_FORM}, then -data")
        backbone, loss, projector_dim, views, data = match.groups()
        return cls(backbone, loss, int(projector_dim), int(views), data)

    def __str__(self) -> str:
        name = _FORM.format(**vars(self))
        return f"{name}-{self.data}" if self.data else name

    @property
    def timm_tag(self) -> str:
        """Tag of the weights in timm's form, such as ``barlow_p256_aug4``."""
        spec = LOSSES.get(self.loss)
        parts = [spec.timm_tag if spec else self.loss, f"p{self.projector_dim}", f"aug{self.views}"]
        return "_".join(parts + ([re.sub(r"\W", "_", self.data)] if self.data else []))


def loss_word(loss: str) -> str:
    """Return the word of a model's name for the loss of a configuration.

    Args:
        loss: Name of a built-in loss, or of one's own, such as ``package.module:function``.
    """
    return loss if loss in LOSSES else f"own_{word_of(loss)}"

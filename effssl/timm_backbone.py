"""Backbones of timm: their names, and how one is built for images and with weights."""

from __future__ import annotations

from contextlib import suppress

import timm
from torch import Tensor, nn

import effssl.backbones  # noqa: F401  it registers the small-image ResNets
from effssl.hints import did_you_mean, option
from effssl.shown import one_line

BACKBONE_ARGS = ("in_chans", "img_size", "patch_size")
"""Arguments of `timm.create_model` that a model folder records."""


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of backbones that match a pattern, such as ``resnet*``."""
    return timm.list_models(pattern)


def check_backbone(backbone: str) -> None:
    """Check the name of a backbone, and the tag of its weights if there is one.

    Raises:
        ValueError: If timm does not know it.
    """
    if ":" in backbone or "/" in backbone:
        raise ValueError(
            f"{option('backbone')} {backbone!r} is a repository or a folder: give it to "
            f"{option('init')} to go on from its weights, or to effssl.from_pretrained; a backbone "
            f"is a name of timm such as resnet50, or resnet50.a1_in1k with {option('pretrained')} "
            "to start from those weights"
        )
    architecture = backbone.partition(".")[0]
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models(), most=3)
        raise ValueError(
            f"unknown backbone {backbone!r}; {hint}effssl.list_models('resnet*') lists names"
        )
    if "." in backbone and backbone.partition(".")[2] not in _tags(architecture):
        raise ValueError(
            f"{architecture!r} has no weights {backbone!r}; timm has "
            f"{', '.join(_tags(architecture)) or 'none'}"
        )


def args_of(backbone: str, in_chans: int, img_size: int | None, patch_size: int | None) -> dict:
    """Return the arguments of ``timm.create_model`` that fit a backbone to images.

    The side of the images is among them where the backbone has a fixed input size.
    """
    args = {"in_chans": in_chans}
    default = timm.get_pretrained_cfg(backbone)
    if img_size is not None and default is not None and default.fixed_input_size:
        args["img_size"] = img_size
    if patch_size is not None:
        args["patch_size"] = patch_size
    return args


def build_backbone(
    name: str,
    backbone_args: dict,
    *,
    pretrained: bool = False,
    weights: dict[str, Tensor] | None = None,
    weights_channels: int = 3,
    drop_path: float = 0.0,
    dynamic_img_size: bool = False,
) -> nn.Module:
    """Build a backbone with ``timm.create_model``, without classifier.

    Args:
        name: Name in timm.
        backbone_args: Further arguments.
        pretrained: Load timm's weights of that name.
        weights: Weights of the backbone to load instead; as timm's own they are adapted to another
            number of channels, patch or image size.
        weights_channels: Channels of the images that these weights are of.
        drop_path: Probability to skip the last residual block.
        dynamic_img_size: Let a backbone of a fixed size take others too, if timm can.

    Raises:
        ValueError: If timm cannot build it, or the weights do not fit it.
    """
    default = timm.get_pretrained_cfg(name)
    if dynamic_img_size and default is not None and default.fixed_input_size:
        with suppress(ValueError):  # it may have no such argument
            return build_backbone(
                name,
                backbone_args | {"dynamic_img_size": True},
                pretrained=pretrained,
                weights=weights,
                weights_channels=weights_channels,
                drop_path=drop_path,
            )
    more: dict = {"drop_path_rate": drop_path} if drop_path else {}
    if weights is not None:
        size = timm.get_pretrained_cfg(name).input_size[1:]
        source = {"state_dict": weights, "input_size": (weights_channels, *size)}
        # a plain file of weights, without a classifier
        plain = {"num_classes": 0, "label_offset": 0, "custom_load": False}
        pretrained, more = True, more | {"pretrained_cfg_overlay": source | plain}
    try:
        return timm.create_model(
            name, pretrained=pretrained, num_classes=0, **backbone_args, **more
        )
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        given = backbone_args | ({"drop_path": drop_path} if drop_path else {})
        what = "" if weights is None else " and load the weights into it"
        raise ValueError(
            f"timm cannot build backbone {name!r} with {given}{what}: {one_line(error, 500)}"
        ) from error


def _tags(architecture: str) -> list[str]:
    """Return the tags of timm's weights of an architecture."""
    return [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]


def untrained_cfg(cfg: dict) -> dict:
    """Keep what a timm configuration says about structure, without the origin of weights."""
    structure = (
        "architecture",
        "fixed_input_size",
        "input_size",
        "pool_size",
        "first_conv",
        "classifier",
    )
    return {k: cfg[k] for k in structure if k in cfg} | {
        "num_classes": 0,
        "custom_load": False,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
    }

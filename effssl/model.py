"""A timm backbone with a projector."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from timm.models import group_parameters
from torch import Tensor, nn

from effssl.backbones import named_download
from effssl.background import BACKGROUND
from effssl.chunk_statistics import kept_statistics
from effssl.hints import option
from effssl.naming import Base, ModelName
from effssl.projector import build_projector
from effssl.timm_backbone import args_of, build_backbone, check_backbone, untrained_cfg

logger = logging.getLogger(__name__)


class _Normalization(Protocol):
    def channel_stats(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]: ...


class Views(Protocol):
    """What a model has to know of `effssl.MultiView`: the side of a view, and its mean and std."""

    size: int
    options: _Normalization


class SSLModel(nn.Module):
    """A backbone that computes features and a projector that maps them to the input of the loss.

    Attributes:
        backbone: timm model without classifier; its ``pretrained_cfg`` describes the input.
        projector: Linear - BatchNorm - ReLU - Linear, F -> D -> D, or as many layers and as wide
            as asked for; None for weights from timm.
        backbone_args: Arguments of ``timm.create_model``, beside the name, for the backbone.
        name: Name of the model that was loaded, which says its loss and views; None for a new one.
        license: Keys of config.json about the license of the weights that were loaded, or that
            training started from.
        base: Weights that training started from, if it did not start from random ones.
        input_is_set: Whether mean and std are those of a training, and not a default.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector_dim: int | None,
        backbone_args: dict,
        *,
        projector_layers: int = 2,
        projector_hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.backbone_args = backbone_args
        self.name: ModelName | None = None
        self.license: dict[str, object] = {}
        self.base: Base | None = None
        self.input_is_set = True
        if projector_dim is None:
            self.projector = None
            return
        self.projector = build_projector(
            backbone.head_hidden_size,
            projector_dim,
            layers=projector_layers,
            hidden=projector_hidden,
        )

    @property
    def num_features(self) -> int:
        """Width F of the features."""
        return self.backbone.head_hidden_size

    @property
    def projector_dim(self) -> int | None:
        """Width D of the projections; None without a projector."""
        return None if self.projector is None else self.projector[-1].out_features

    @property
    def projector_layers(self) -> int | None:
        """Number of linear layers of the projector; None without a projector."""
        return None if self.projector is None else (len(self.projector) + 2) // 3

    @property
    def projector_hidden(self) -> int | None:
        """Width between the layers of the projector; None if there is nothing between."""
        if self.projector is None or len(self.projector) == 1:
            return None
        return self.projector[0].out_features

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Stored values that became black and white in training; None for those of 8 bits."""
        return self.backbone.pretrained_cfg.get("value_range")

    @property
    def background(self) -> str:
        """Color behind transparent pixels in training, or ``drop``; see `effssl.background`."""
        return self.backbone.pretrained_cfg.get("background", BACKGROUND)

    def set_input(
        self,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        value_range: tuple[float, float] | None = None,
        background: str = BACKGROUND,
    ) -> None:
        """Record the input that the backbone is trained on, for transforms and saved folders.

        Facts about timm's weights that training started from, such as their tag, are dropped.

        Args:
            size: Side of the square image in pixels.
            mean: Mean of each channel, for pixels scaled to [0, 1].
            std: Standard deviation of each channel, likewise.
            value_range: Stored values that become 0 and 1; None for the full range of their type.
            background: Color behind transparent pixels, or ``drop``.
        """
        cfg = untrained_cfg(self.backbone.pretrained_cfg)
        cfg |= {"input_size": (len(mean), size, size), "mean": tuple(mean), "std": tuple(std)}
        cfg |= {"background": background}
        cfg |= {} if value_range is None else {"value_range": value_range}
        self.backbone.pretrained_cfg = self.backbone.default_cfg = cfg
        self.input_is_set = True

    def set_views(self, views: Views) -> None:
        """Record the views that the backbone is trained on: their size, mean and std.

        Value range and background stay; see `set_input`, which sets all.

        Args:
            views: `effssl.MultiView`.

        Raises:
            TypeError: If it is something else.
        """
        if not hasattr(views, "options") or not hasattr(views, "size"):
            raise TypeError(
                "views must be a MultiView, such as effssl.MultiView('imagenet', views=4, "
                f"size=224); got {type(views).__name__}"
            )
        channels = self.backbone.pretrained_cfg["input_size"][0]
        stats = views.options.channel_stats(channels)
        self.set_input(views.size, *stats, self.value_range, self.background)

    def no_weight_decay(self) -> set[str]:
        """Return names of parameters without weight decay, such as position embeddings.

        timm's optimizers call this method.
        """
        names = getattr(self.backbone, "no_weight_decay", set)()
        return {f"backbone.{name}" for name in names}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return a function from the name of a parameter to its layer, the projector the last one.

        timm's optimizers call this method for a learning rate that falls from layer to layer.
        """
        backbone = self.backbone
        if hasattr(backbone, "group_matcher"):
            layers = group_parameters(backbone, backbone.group_matcher(coarse), reverse=True)
        else:
            layers = {name: 0 for name, _ in backbone.named_parameters()}
        last = max(layers.values()) + 1
        return lambda name: layers.get(name.removeprefix("backbone."), last)

    def forward(self, x: Tensor | Sequence[Tensor], project: bool = False) -> Tensor:
        """Return features (N, F) of images (N, C, H, W), or with ``project`` projections (N, D).

        Images of several sizes are a sequence of tensors, one for each size; N counts all, in their
        order. Each size passes through the backbone by itself, and in train mode the running
        statistics of its batch norms are those of the first size.

        Raises:
            ValueError: If the images do not have the channels that the backbone takes, or project
                is set and there is no projector.
        """
        features = self.features(x)
        if not project:
            return features
        if self.projector is None:
            raise ValueError("these weights came without a projector: only features can be had")
        return self.projector(features)

    def features(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Return features (N, F) of images of one size or of several, as `forward` does."""
        first, *others = [x] if isinstance(x, Tensor) else x
        if not torch.jit.is_tracing():  # which would warn of a condition on a shape
            for images in (first, *others):
                _check_shape(images.shape, self.backbone_args.get("in_chans", 3))
        found = self.backbone(first)
        if not others:
            return found
        with kept_statistics(self.backbone):
            return torch.cat([found, *(self.backbone(images) for images in others)])


def _check_shape(shape: torch.Size, in_chans: int) -> None:
    """Raise ValueError if images do not have the shape (N, C, H, W) with C channels."""
    if len(shape) == 4 and shape[1] == in_chans:
        return
    hint = ""
    if len(shape) == 3 and shape[0] == in_chans:
        hint = ": of one image make a batch with image[None]"
    elif len(shape) == 4 and shape[-1] == in_chans:
        hint = ": channels come before height and width, images.permute(0, 3, 1, 2)"
    elif len(shape) == 4 and shape[1] == 1 and in_chans == 3:
        hint = ": of gray images make color with images.expand(-1, 3, -1, -1)"
    raise ValueError(
        f"this model takes images (N, {in_chans}, H, W), and got a tensor of shape "
        f"{tuple(shape)}{hint}"
    )


def create_model(
    backbone: str,
    *,
    projector_dim: int = 256,
    projector_layers: int = 2,
    projector_hidden: int | None = None,
    in_chans: int = 3,
    img_size: int | None = None,
    patch_size: int | None = None,
    drop_path: float = 0.0,
    pretrained: bool = False,
    views: Views | None = None,
    dynamic_img_size: bool = False,
) -> SSLModel:
    """Build a timm backbone with a projector.

    For a training loop of your own give the views, or call `SSLModel.set_input`: a saved model
    says by which mean and std images are to be normalized, and they must be those of the training.

    Args:
        backbone: Name in timm, such as ``resnet50``, or of `effssl.backbones`, such as
            ``resnet18_cifar``.
        projector_dim: Width D of the projector's output.
        projector_layers: Number of its linear layers, 1 to 3.
        projector_hidden: Width between its layers; D if None.
        in_chans: Channels of the images.
        img_size: Side of the images in pixels; the backbone's default if None. Backbones with a
            fixed input size (ViT, Swin) are built for it.
        patch_size: Patch of ViT-like backbones and of ConvNeXt's stem in pixels; the backbone's
            default if None.
        drop_path: Probability that the last residual block is skipped in training, for an image;
            it rises to that from block to block.
        pretrained: Start from timm's default weights of the backbone, or from those of the tag in
            its name (``resnet50.a1_in1k``). Needs a network or timm's cache.
        views: `effssl.MultiView` that the model is trained on, which gives the side of the images,
            mean and std. If None, they are 0.5 each, or those of timm's weights, and saving the
            model warns of that.
        dynamic_img_size: Let a backbone that is built for one size take others too, where it can:
            ViT-like ones interpolate their position embeddings. The weights are the same, so a
            saved model does not record it.

    Raises:
        ValueError: If the backbone is unknown, has no patch size to set, has no pretrained
            weights, or cannot take such images, or img_size is not that of the views.
        TypeError: If views is no `effssl.MultiView`.
        FileNotFoundError: If pretrained weights are not in the cache and cannot be downloaded.
    """
    check_backbone(backbone)
    if in_chans < 1:
        raise ValueError(f"{option('in_chans')} must be 1 or more, got {in_chans}")
    if views is not None and img_size not in (None, getattr(views, "size", img_size)):
        raise ValueError(f"img_size {img_size} is not the {views.size} px of the views: leave it")
    img_size = img_size or getattr(views, "size", None)
    backbone_args = args_of(backbone, in_chans, img_size, patch_size)
    with named_download(backbone) if pretrained else nullcontext():
        net = build_backbone(
            backbone,
            backbone_args,
            pretrained=pretrained,
            drop_path=drop_path,
            dynamic_img_size=dynamic_img_size,
        )
    cfg = dict(net.pretrained_cfg) if pretrained else untrained_cfg(net.pretrained_cfg)
    for key in ("mean", "std"):
        if len(cfg[key]) != in_chans:
            cfg[key] = (sum(cfg[key]) / len(cfg[key]),) * in_chans
    size = img_size or cfg["input_size"][-1]
    cfg |= {"num_classes": 0, "input_size": (in_chans, size, size)}
    net.pretrained_cfg = net.default_cfg = cfg
    model = SSLModel(
        net,
        projector_dim,
        backbone_args,
        projector_layers=projector_layers,
        projector_hidden=projector_hidden,
    )
    model.input_is_set = False
    if views is not None:
        model.set_views(views)
    return model


def check_input(model: SSLModel, local_size: int | None = None) -> None:
    """Run the backbone on two images of its recorded input size.

    Args:
        model: Model to try.
        local_size: Side of smaller images, which are tried instead.

    Raises:
        ValueError: If the backbone cannot take them.
    """
    shape = model.backbone.pretrained_cfg["input_size"]
    advice = f"give another {option('img_size')}"
    if local_size is not None:
        advice = (
            f"give another {option('local_size')}, {shape[-1]} at most, or a backbone that takes "
            "images of several sizes, such as a ResNet, ConvNeXt or ViT"
        )
        shape = (shape[0], local_size, local_size)
        if getattr(model.backbone, "dynamic_img_size", None) is False:  # it was built elsewhere
            advice = "make it by effssl.create_model(..., dynamic_img_size=True)"
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(2, *shape))
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"backbone {model.backbone.pretrained_cfg['architecture']!r} cannot take images of "
            f"{shape[-1]} px: {reason}; {advice}"
        ) from error
    finally:
        model.train(training)


def warn_of_default_input(model: SSLModel) -> None:
    """Warn of a model that may have been trained with another mean and std than it says."""
    if model.input_is_set:
        return
    cfg = model.backbone.pretrained_cfg
    logger.warning(
        "mean %s and std %s of the model are defaults: if it was trained on other views, give them "
        "to effssl.create_model(views=...) or model.set_views before it is saved",
        *(", ".join(f"{value:g}" for value in cfg[key]) for key in ("mean", "std")),
    )

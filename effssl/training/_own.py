"""Loss, views and model of one's own: found, named, and tried before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from effssl.hints import option
from effssl.losses import create_loss
from effssl.model import SSLModel
from effssl.own import import_own, is_object, is_own, name_of, takes
from effssl.shown import shown
from effssl.training._views import create_views, larger_scale
from effssl.training.config import PretrainConfig
from effssl.views import MultiView, ViewOptions
from effssl.views.options import DEFAULTS
from effssl.views.own import OwnViews

_COLUMNS = {"step", "epoch", "loss", "lr", "grad_norm", "knn", "spectrum"}
"""Names in a line of metrics.jsonl that a part of a loss must not have."""


@dataclass(frozen=True)
class Own:
    """Objects that take the place of what a configuration names; None for those that do not.

    Attributes:
        loss: Function of projections (V, n, D).
        views: Options of views, or a function that makes them (`OwnViews`).
        model: Model whose weights the run starts from.
    """

    loss: Callable | None = None
    views: Callable | ViewOptions | MultiView | None = None
    model: SSLModel | None = None

    def named_in(self, config: PretrainConfig) -> PretrainConfig:
        """Return the configuration with the names of these objects; nothing is imported.

        Raises:
            TypeError: If one is of the wrong kind.
            ValueError: If one does not fit the configuration.
        """
        changes: dict = {}
        if self.loss is not None:
            if not callable(self.loss):
                raise TypeError(f"loss must be a function of (V, N, D); got {shown(self.loss)}")
            changes["loss"] = name_of(self.loss)
        if isinstance(self.views, ViewOptions | MultiView):
            changes["view"] = _over(config, self.views)  # which says all, so it needs no name
        elif self.views is not None:
            if not callable(self.views):
                raise TypeError(
                    f"views must be ViewOptions, a MultiView or a function; got {shown(self.views)}"
                )
            changes["preset"] = name_of(self.views)
        if self.model is not None:
            if config.init is not None or config.pretrained:
                raise ValueError("init and a model are both weights to start from: leave one out")
            if config.drop_path:
                raise ValueError(
                    "drop_path does nothing to a model that is given: leave it out, and give it to "
                    "effssl.create_model"
                )
            changes |= _of_model(self.model)
        return replace(config, **changes)

    def imported_for(self, config: PretrainConfig) -> tuple[PretrainConfig, Own]:
        """Import what the configuration names, and return it with the whole options of views.

        Raises:
            ValueError: If something cannot be imported, or is of the wrong kind.
        """
        loss, views = self.loss, self.views
        if self.model is None and is_object(str(config.init)):
            raise ValueError(
                f"{option('init')} {config.init} was a model in Python: give it to effssl.pretrain "
                "again"
            )
        if loss is None and is_own(config.loss):
            loss = import_own(config.loss, "loss")
            if not callable(loss):
                raise ValueError(
                    f"loss {config.loss} must be a function of (V, N, D); got {shown(loss)}"
                )
        if is_own(config.preset) and (views is None or isinstance(views, ViewOptions | MultiView)):
            views = import_own(config.preset, "preset")
            if isinstance(views, ViewOptions | MultiView):
                config = replace(config, view=_over(config, views))
            elif not callable(views):
                raise ValueError(
                    f"preset {config.preset} must be ViewOptions or a function that makes views; "
                    f"got {shown(views)}"
                )
        return config, Own(loss, views, self.model)


def run_loss(config: PretrainConfig, own: Own, rows: int, device: torch.device) -> Callable:
    """Return the loss of a run, with the keyword ``return_parts``; one of one's own is tried.

    Args:
        config: Configuration of the run.
        own: Objects of the run.
        rows: Number of images of a batch in this process.
        device: Device of the model.

    Raises:
        ValueError: If a loss of one's own fails, or gives no scalar or no gradient.
    """
    global_views = None if config.local_pairs else config.views
    if own.loss is None:
        return create_loss(
            config.loss,
            dim=config.projector_dim,
            weight=config.loss_weight,
            multiview=config.multiview,
            global_views=global_views,
        )
    loss = OwnLoss(own.loss, config.loss, global_views)
    dtype = torch.float64 if config.precision == "fp64" else torch.float32
    loss.try_on((config.all_views, rows, config.projector_dim), device, dtype)
    return loss


def run_views(
    config: PretrainConfig,
    own: Own,
    device: torch.device,
    normalization: Mapping[str, tuple[float, ...]],
) -> list[MultiView] | list[OwnViews]:
    """Return the views of each size of a run; a function of one's own is tried.

    Args:
        config: Configuration of the run.
        own: Objects of the run.
        device: Device of the model.
        normalization: ``mean`` and ``std`` of the weights that the run goes on from, if any.

    Raises:
        ValueError: If the function fails, or gives views of another shape; or if options are given
            beside it that only built-in views have.
    """
    if own.views is None or isinstance(own.views, ViewOptions | MultiView):
        return create_views(config, normalization)
    if config.local_views:
        raise ValueError(
            f"{option('local_views')} adds crops to built-in views, and {config.preset} is of "
            "one's own: leave it out, and make views of one size"
        )
    others = [name for name in config.view.given() if name not in ("mean", "std")]
    if others:
        raise ValueError(
            f"{option('view.' + others[0])} does nothing to views of one's own, {config.preset}: "
            f"leave it out ({option('view.mean')} and {option('view.std')} say what they are "
            "normalized by)"
        )
    options = config.view.over(replace(DEFAULTS, **normalization))
    made = OwnViews(
        own.views, config.preset, views=config.views, size=config.img_size, options=options
    )
    shape = (2, config.in_chans, config.img_size, config.img_size)
    images = torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).byte()
    try:
        made(images.to(device), torch.Generator().manual_seed(0))
    except Exception as error:  # noqa: BLE001  it may raise anything
        reason = _line(error)
        if not str(error).startswith("views of one's own"):
            reason = f"views of one's own, {config.preset}, fail on images {shape}: {reason}"
        raise ValueError(reason) from error
    return [made]


class OwnLoss:
    """Calls a loss as built-in ones are called, in float32 or float64 and without autocast.

    Args:
        function: Function of projections (V, n, D) that returns a scalar, and with the keyword
            ``return_parts``, if it has that, also a dict of scalars. It gets ``global_views``, the
            number of views that are not local and come first, if it has that keyword.
        name: Its name, for errors.
        global_views: That number; None if all pairs of views count.
    """

    def __init__(self, function: Callable, name: str, global_views: int | None = None) -> None:
        self.function, self.name = function, name
        self.has_parts = takes(function, "return_parts")
        self.keywords: dict = {"return_parts": True} if self.has_parts else {}
        if takes(function, "global_views"):
            self.keywords["global_views"] = global_views

    def __call__(
        self, z: Tensor, *, return_parts: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss, and if asked to its parts by name, none if the function has none."""
        loss, parts = self._compute(z)
        parts = {name: part.detach().to(loss.dtype) for name, part in parts.items()}
        return (loss, parts) if return_parts else loss

    def _compute(self, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        z = z if z.dtype == torch.float64 else z.float()
        with torch.autocast(z.device.type, enabled=False):
            found = self.function(z, **self.keywords)
        return found if self.has_parts else (found, {})

    def try_on(self, shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> None:
        """Compute the loss of random projections and its gradient.

        Raises:
            ValueError: If that fails, or one is missing. The message is one line.
        """
        z = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
        z = z.to(device).requires_grad_()
        said = f"loss {self.name}"
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                loss, parts = self._compute(z)
                named = {said: loss} | {f"part {k!r} of {said}": p for k, p in parts.items()}
        except Exception as error:  # noqa: BLE001  it may raise anything
            raise ValueError(f"{said} fails on projections {shape}: {_line(error)}") from error
        for name, value in named.items():
            if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
                raise ValueError(f"{name} must be a scalar float tensor; got {_kind(value)}")
        if taken := parts.keys() & _COLUMNS:
            raise ValueError(f"a part of {said} has the name of another metric: {min(taken)!r}")
        gradient = None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, z, allow_unused=True)
        if gradient is None:
            raise ValueError(
                f"{said} has no gradient: compute it from the projections by operations of torch "
                "that can be differentiated, without detach, item or numpy"
            )


def _over(config: PretrainConfig, views: ViewOptions | MultiView) -> ViewOptions:
    """Return all options of views, with what the configuration changes.

    What nobody gave is as beside a preset: mean and std are left to the weights to go on from, and
    beside local views the other crops are the larger ones.
    """
    if isinstance(views, MultiView):
        if (views.views, views.size) != (config.views, config.img_size):
            raise ValueError(
                f"views makes {views.views} views of {views.size} px, and the configuration says "
                f"{config.views} of {config.img_size} px: give the same"
            )
        views = views.options
    given = config.view.given() | views.given()
    whole = config.view.over(views.over(DEFAULTS))
    if config.local_views and "scale" not in given:
        whole = replace(whole, scale=larger_scale(whole.scale, config.local_scale))
    if config.init is not None or config.pretrained:
        whole = replace(whole, **dict.fromkeys({"mean", "std"} - given.keys()))
    return whole


def _of_model(model: SSLModel) -> dict:
    """Return the fields that a model determines."""
    if not isinstance(model, SSLModel) or model.projector_dim is None:
        raise TypeError(
            "model must be an SSLModel with a projector, from effssl.create_model; got "
            f"{type(model).__name__}"
        )
    cfg, hidden = model.backbone.pretrained_cfg, model.projector_hidden
    return {
        "backbone": cfg["architecture"],
        "init": name_of(model),
        "projector_dim": model.projector_dim,
        "projector_layers": model.projector_layers,
        "projector_hidden": None if hidden == model.projector_dim else hidden,
        "in_chans": cfg["input_size"][0],
        "patch_size": model.backbone_args.get("patch_size"),
        "pretrained": False,
    }


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return shown(value)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}"

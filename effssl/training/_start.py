"""Weights that a run goes on from: found, read, and put into its model.

They are read once, when a run begins. What a resume needs of them, the structure of the model and
what is known of the weights, is in start.json of the run folder.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
from torch import Tensor, nn

from effssl.backbones import named_download
from effssl.distributed import gather_objects
from effssl.foreign import check_type, read_json
from effssl.hints import option
from effssl.hub._base import license_in_card, license_name, license_of_weights
from effssl.hub._folder import read_folder
from effssl.hub._model_config import (
    ModelConfig,
    checked_config,
    compose_config,
    read_config,
)
from effssl.hub._pretrained_cfg import known_cfg
from effssl.hub.pull import find_model, public_name
from effssl.model import SSLModel
from effssl.naming import Base
from effssl.own import is_object
from effssl.shown import shown
from effssl.timm_backbone import args_of, build_backbone, check_backbone
from effssl.training._agreement import together
from effssl.training._checkpoint import checkpoints
from effssl.training._optim import freeze_unused_parameters
from effssl.training._run_folder import START
from effssl.training.config import TIMM, PretrainConfig

logger = logging.getLogger(__name__)

_INPUT = ("interpolation", "crop_pct", "crop_mode")  # beside mean and std


@dataclass(frozen=True)
class Start:
    """Weights that a run goes on from.

    Attributes:
        config: What is known of them; on a resume, of the model of the run.
        base: What config.json of the run's model says of them.
        license: Keys of config.json about their license.
        public: Whether others know them by that name.
        weights: The weights by name; None for those that timm loads, and on a resume.
        is_resume: Whether the run is resumed, so that a checkpoint has the weights.
        frozen: On a resume, the parameters of the backbone that the run has frozen.
    """

    config: ModelConfig
    base: Base
    license: dict[str, object]
    public: bool
    weights: dict[str, Tensor] | None = None
    is_resume: bool = False
    frozen: tuple[str, ...] = ()

    @property
    def normalization(self) -> dict[str, tuple[float, ...]]:
        """``mean`` and ``std`` that images are normalized by, where they are known."""
        cfg = self.config.pretrained_cfg
        return {key: tuple(cfg[key]) for key in ("mean", "std") if key in cfg}

    def build(self, config: PretrainConfig) -> SSLModel:
        """Build the model of a run with these weights, and log what was loaded."""
        args = dict(self.config.model_args)
        if not self.is_resume:
            fixed = "img_size" in args
            args |= args_of(
                self.config.architecture, config.in_chans, config.img_size, config.patch_size
            )
            args |= {"img_size": config.img_size} if fixed else {}
        model = SSLModel(
            self._backbone(args, config),
            config.projector_dim,
            args,
            projector_layers=config.projector_layers,
            projector_hidden=config.projector_hidden,
        )
        if not self.is_resume:
            self._log(model, self._take_projector(model, config))
            self._compare_range(config)
            self._compare_size(config)
        return model

    def _backbone(self, args: dict, config: PretrainConfig) -> nn.Module:
        name = self.config.architecture
        build = partial(
            build_backbone,
            name,
            args,
            drop_path=config.drop_path,
            dynamic_img_size=config.local_views > 0,
        )
        if self.is_resume:
            return build()
        if self.weights is None:
            with named_download(name):
                return build(pretrained=True)
        return build(
            weights=_part(self.weights, "backbone"),
            weights_channels=self.config.model_args.get("in_chans", 3),
        )

    def freeze(self, model: SSLModel) -> list[str]:
        """Freeze the parameters on which the loss does not depend, and return their names.

        They are found by passes through the weights, so a resume takes those that were found.
        """
        if not self.is_resume:
            return freeze_unused_parameters(model)
        parameters = dict(model.backbone.named_parameters())
        for name in self.frozen:
            if name not in parameters:
                raise ValueError(f"{START} names {shown(name)}, which the backbone does not have")
            parameters[name].requires_grad_(False)
        return list(self.frozen)

    def describe(self, model: SSLModel) -> None:
        """Note on a model, whose input is set, what it keeps of these weights."""
        cfg = self.config.pretrained_cfg
        model.backbone.pretrained_cfg |= {key: cfg[key] for key in _INPUT if key in cfg}
        model.base, model.license = self.base, self.license

    def record(self, model: SSLModel) -> dict | None:
        """Return the content of start.json; None if it is there already."""
        if self.is_resume:
            return None
        frozen = [k for k, p in model.backbone.named_parameters() if not p.requires_grad]
        described = compose_config(model, {}, None, None)
        return {"public": self.public, "frozen": frozen, "model": described}

    def _take_projector(self, model: SSLModel, config: PretrainConfig) -> str:
        """Load the projector if it fits, and return in words what became of it."""
        loaded = _part(self.weights or {}, "projector")
        if not loaded:
            return "a fresh projector, since they have none"
        if config.init_projector == "off":
            return f"a fresh projector, as {option('init_projector')} says"
        expected = model.projector.state_dict()
        if {k: v.shape for k, v in loaded.items()} == {k: v.shape for k, v in expected.items()}:
            model.projector.load_state_dict(loaded)
            return "and their projector"
        theirs, ours = (
            " -> ".join(str(v.shape[0]) for v in found.values() if v.ndim == 2)
            for found in (loaded, expected)
        )
        return f"a fresh projector {ours} wide, since theirs is {theirs} wide"

    def _compare_range(self, config: PretrainConfig) -> None:
        found = self.config.value_range
        if found is not None and found != config.value_range:
            logger.warning(
                "the weights of %s were trained with the stored values %g to %g as black and "
                "white, and %s is %s here: give the same for images of that kind",
                self.base.model,
                *found,
                option("value_range"),
                config.value_range,
            )

    def _compare_size(self, config: PretrainConfig) -> None:
        size = self.config.pretrained_cfg.get("input_size", (config.img_size,))[-1]
        if size != config.img_size:
            logger.info(
                "these weights are of images of %d px, this run is of %d px: %s %d keeps theirs",
                size,
                config.img_size,
                option("img_size"),
                size,
            )

    def _log(self, model: SSLModel, projector: str) -> None:
        found = model.backbone.state_dict()
        adapted = [
            f"{name} {tuple(tensor.shape)} to {tuple(found[name].shape)}"
            for name, tensor in _part(self.weights or {}, "backbone").items()
            if name in found and tensor.shape != found[name].shape
        ]
        logger.info(
            "starts from %s: backbone %s%s, %s",
            self.base.model,
            self.config.architecture,
            f" (adapted: {', '.join(adapted)})" if adapted else "",
            projector,
        )


def named(config: PretrainConfig) -> PretrainConfig:
    """Return a configuration that has a name: with the backbone of ``init`` if it needs that.

    Raises:
        ValueError: If what ``init`` names cannot be read.
        FileNotFoundError: If there is no such model.
    """
    if config.backbone is not None or config.output is not None:
        return config
    known = read_config(find_model(str(config.init), card=True))
    return dataclasses.replace(config, backbone=_bare(known.architecture))


def find_start(
    config: PretrainConfig, *, is_main_process: bool
) -> tuple[PretrainConfig, Start | None]:
    """Return what a run goes on from, if anything, and the configuration with its backbone.

    Every process must call it. A run that is resumed does not read the weights again.

    Raises:
        ValueError: If what ``init`` names cannot be read, or is of another backbone.
        FileNotFoundError: If there is no such model.
    """
    started, start = False, None
    with together():
        if is_main_process and config.resume and checkpoints(config.run_folder):
            started, start = True, _read(config)
    started, start = gather_objects((started, start))[0]
    if not started:
        with together():
            start = _found(config)
    if start is not None and config.backbone is None:
        config = dataclasses.replace(config, backbone=start.config.architecture)
    return config, start


def _read(config: PretrainConfig) -> Start | None:
    """Return the start that a run has noted; None if it noted none."""
    path = config.run_folder / START
    if not path.is_file():
        return None
    said = read_json(path)
    try:
        check_type(said.get("public"), bool, "public")
        check_type(said.get("frozen"), list[str], "frozen")
        check_type(said.get("model"), dict[str, Any], "model")
        known = checked_config(said["model"], has_files=False)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    base = known.base or Base(known.architecture)
    return Start(
        known,
        base,
        known.license,
        said["public"],
        is_resume=True,
        frozen=tuple(said["frozen"]),
    )


def _found(config: PretrainConfig) -> Start | None:
    """Find the weights that a configuration names, and read them."""
    name = config.init
    if name is not None and is_object(name):
        return None  # a model that was given in Python
    if config.pretrained:
        if name not in (None, TIMM):
            raise ValueError(
                f"{option('pretrained')} means {option('init')} {TIMM}, and that is {name!r}: "
                "leave one of them out"
            )
        name = TIMM
    if name is None:
        return None
    start = _from_timm(config.backbone) if name == TIMM else _from_folder(name)
    found = start.config.architecture
    if config.backbone not in (None, found):
        raise ValueError(
            f"{option('init')} {name!r} holds the backbone {found!r}, not {config.backbone!r}: "
            f"leave {option('backbone')} out, or give other weights"
        )
    return start


def _from_timm(backbone: str) -> Start:
    check_backbone(backbone)
    cfg = timm.get_pretrained_cfg(backbone, allow_unregistered=False)
    if cfg is None or not cfg.has_weights:
        raise ValueError(f"timm has no weights of backbone {backbone!r} to start from")
    cfg = cfg.to_dict()
    tag = cfg.get("tag") or "unknown"
    repository = cfg.get("hf_hub_id") or f"timm/{_bare(backbone)}.{tag}"
    config = ModelConfig(backbone, {}, known_cfg(cfg), None, {})
    return _start(config, repository, True, {"license": cfg.get("license")})


def _from_folder(name: str) -> Start:
    try:
        folder = find_model(name, card=True)
    except FileNotFoundError as error:
        if timm.is_model(name.partition(".")[0]) and "/" not in name:
            raise ValueError(
                f"{option('init')} {name!r} is a backbone of timm: give {option('init')} {TIMM} "
                f"and {option('backbone')} {name} to start from timm's weights of it"
            ) from error
        raise
    config, weights = read_folder(folder)
    config = dataclasses.replace(config, architecture=_bare(config.architecture))
    public = public_name(name)
    model = public
    if model is None:  # a folder that others cannot load
        model = config.base.model if config.base else str(config.name or config.architecture)
    found = config.license or license_in_card(folder)
    start = _start(config, model, public is not None, found)
    return dataclasses.replace(start, weights=weights)


def _start(config: ModelConfig, model: str, public: bool, license: dict[str, object]) -> Start:
    base = Base(model, license_name(license))
    granted = license_of_weights(license, base.repository)
    return Start(config, base, granted.metadata() if granted else {}, public)


def _bare(architecture: str) -> str:
    """Return the name of a backbone without the tag of its weights."""
    return architecture.partition(".")[0]


def _part(weights: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    lead = f"{part}."
    return {k.removeprefix(lead): v for k, v in weights.items() if k.startswith(lead)}

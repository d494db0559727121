"""config.json of a model folder: timm's keys, and one object ``effssl`` that timm ignores.

The file may come from anybody, so every value is checked before use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import timm

from effssl.background import BACKGROUND, DROP, color_of
from effssl.foreign import read_json
from effssl.hub._base import checked_base
from effssl.hub._license import LICENSE, License
from effssl.hub._pretrained_cfg import check_cfg, known_cfg
from effssl.loss_specs import papers_of
from effssl.model import SSLModel
from effssl.naming import Base, ModelName
from effssl.papers import METHOD
from effssl.projector import LAYERS
from effssl.shown import shown
from effssl.timm_backbone import BACKBONE_ARGS

FORMAT_VERSION = 1
WEIGHT_FILES = {"backbone": "model.safetensors", "projector": "projector.safetensors"}
_FILE = {"bytes": int, "sha256": str}
# other arguments that timm records of its own models
_TIMM_ARGS = {"global_pool": str, "class_token": bool, "dynamic_img_size": bool}
_LARGEST_VALUE = 1e30  # of a pixel
_MOST_WIDTH = 65536  # of the projector
_LARGEST = {"in_chans": 1024, "img_size": 8192, "patch_size": 1024}


@dataclass(frozen=True)
class ModelConfig:
    """Checked content of config.json.

    Attributes:
        architecture: timm's name of the backbone.
        model_args: Arguments that build it.
        pretrained_cfg: timm's description of the weights and their input.
        projector_dim: Width of the projector; None if the folder has none.
        files: Bytes and sha256 of each file of weights; empty in a folder of timm.
        name: Name of the model, if it was trained by effssl.
        value_range: Stored values that become black and white; None for those of 8 bits.
        background: Color behind transparent pixels; ``drop`` in folders of versions that dropped
            transparency.
        license: Keys of a card about the license of the weights; not checked.
        projector_layers: Number of linear layers of the projector.
        projector_hidden: Width between them; that of the projector if None.
        base: Weights that training started from, if it did not start from random ones.
    """

    architecture: str
    model_args: dict
    pretrained_cfg: dict
    projector_dim: int | None
    files: dict[str, dict]
    name: ModelName | None = None
    value_range: tuple[float, float] | None = None
    background: str = BACKGROUND
    license: dict[str, object] = field(default_factory=dict)
    projector_layers: int = 2
    projector_hidden: int | None = None
    base: Base | None = None

    @property
    def has_timm_args(self) -> bool:
        """Whether model_args holds some that only timm sets, such as ``global_pool``."""
        return not self.model_args.keys().isdisjoint(_TIMM_ARGS)


def compose_config(
    model: SSLModel, files: dict[str, dict], name: ModelName | None, license: License | None
) -> dict:
    """Return the content of config.json.

    Name and license are those given, else those of the model that was loaded.
    """
    name = model.name if name is None else name
    cfg = known_cfg(model.backbone.pretrained_cfg)
    if name is not None:
        papers = [f"arXiv:{paper.arxiv}" for paper in (METHOD, *papers_of(name.loss))]
        cfg |= {"tag": name.timm_tag, "paper_ids": papers}
    ours = {"format": FORMAT_VERSION, "projector_dim": model.projector_dim}
    # earlier versions read folders of the usual projector, which has neither key
    if model.projector_layers not in (None, 2):
        ours["projector_layers"] = model.projector_layers
    if model.projector_hidden not in (None, model.projector_dim):
        ours["projector_hidden"] = model.projector_hidden
    if model.base is not None:
        ours["base"] = {k: v for k, v in vars(model.base).items() if v is not None}
    if name is not None:
        ours["name"] = str(name)
    ours["background"] = model.background
    if model.value_range is not None:
        ours["value_range"] = list(model.value_range)
    config = {
        "architecture": cfg["architecture"],
        "num_classes": 0,
        "num_features": model.num_features,
        "model_args": model.backbone_args,
        "pretrained_cfg": cfg | {"num_classes": 0},
        "effssl": ours | {"files": files},
    }
    if license is not None:
        _put_license(config, license.metadata())
    elif model.license:
        _put_license(config, model.license)
    return config


def set_license(config: dict, license: License) -> None:
    """Put a license into the content of config.json: timm knows its identifier only."""
    _put_license(config, license.metadata())


def _put_license(config: dict, found: Mapping[str, object]) -> None:
    for key in ("license_name", "license_link"):
        config["effssl"].pop(key, None)
    for key, value in found.items():
        config["pretrained_cfg" if key == "license" else "effssl"][key] = value


def read_config(folder: Path) -> ModelConfig:
    """Read and check config.json of a folder that effssl or timm wrote.

    Raises:
        FileNotFoundError: If there is no config.json.
        ValueError: If it is not of that format, or holds anything that does not belong there.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no config.json in {str(folder)!r}: not a model folder")
    config = read_json(path)
    try:
        return checked_config(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def checked_config(config: dict, *, has_files: bool = True) -> ModelConfig:
    """Check the content of config.json.

    Args:
        config: What the file says.
        has_files: Whether it describes files of weights; if not, ``files`` is empty.

    Raises:
        ValueError: If it is not of that format, or holds anything that does not belong there.
    """
    for key, kind in {"architecture": str, "pretrained_cfg": dict}.items():
        if not isinstance(config.get(key), kind):
            raise ValueError(f"{key!r} must be a {kind.__name__}, is {shown(config.get(key))}")
    architecture, cfg = config["architecture"], config["pretrained_cfg"]
    if not timm.is_model(architecture) or "/" in architecture or ":" in architecture:
        raise ValueError(
            f"unknown architecture {shown(architecture)}; a newer effssl or timm may know it"
        )
    ours = config.get("effssl")
    foreign = ours is None
    cfg = {key: value for key, value in cfg.items() if value is not None}
    if foreign:  # timm's own may hold more keys
        cfg = known_cfg(cfg)
    elif not isinstance(ours, dict):
        raise ValueError(f"'effssl' must be an object, is {shown(ours)}")
    elif ours.get("format") != FORMAT_VERSION:
        raise ValueError(
            f"this effssl reads format {FORMAT_VERSION}, not {shown(ours.get('format'))}: use the "
            "version of effssl that wrote it"
        )
    model_args = _checked_args(config.get("model_args", {}), foreign)
    check_cfg(cfg, model_args.get("img_size", 0))
    channels = model_args.get("in_chans", 3)
    for key, found in {
        "input_size": cfg.get("input_size", [0])[0],
        "mean": len(cfg.get("mean", [])),
        "std": len(cfg.get("std", [])),
    }.items():
        if found != channels and (key in cfg or not foreign):
            raise ValueError(f"{key} must be of the {channels} channels of model_args, not {found}")
    license = {"license": cfg["license"]} if "license" in cfg else {}
    if foreign:
        return ModelConfig(architecture, model_args, cfg, None, {}, license=license)

    dim, layers, hidden = _checked_projector(ours)
    names = [WEIGHT_FILES[part] for part in WEIGHT_FILES if part == "backbone" or dim is not None]
    files = ours.get("files")
    if not isinstance(files, dict) or files.keys() != set(names if has_files else ()):
        raise ValueError(f"files must be {' and '.join(names)}, is {shown(files)}")
    for file in files.values():
        if not isinstance(file, dict) or {k: type(file[k]) for k in file} != _FILE:
            raise ValueError(f"bytes and sha256 of every file must be given, not {shown(file)}")
    name = ours.get("name")
    if name is not None:
        name = ModelName.parse(name if isinstance(name, str) and len(name) < 200 else shown(name))
    value_range = _checked_range(ours.get("value_range"))
    license |= {key: ours[key] for key in LICENSE[1:] if ours.get(key) is not None}
    return ModelConfig(
        architecture,
        model_args,
        cfg,
        dim,
        files,
        name,
        value_range,
        _checked_background(ours.get("background", DROP)),
        license,
        projector_layers=layers,
        projector_hidden=hidden,
        base=checked_base(ours.get("base")),
    )


def _checked_projector(ours: dict) -> tuple[int | None, int, int | None]:
    """Return width, number of layers and width between them."""
    dim, layers = ours.get("projector_dim"), ours.get("projector_layers", 2)
    hidden = ours.get("projector_hidden")
    for name, width in {"projector_dim": dim, "projector_hidden": hidden}.items():
        if width is not None and (type(width) is not int or not 1 <= width <= _MOST_WIDTH):
            raise ValueError(f"{name} must be 1 to {_MOST_WIDTH}, is {shown(width)}")
    if type(layers) is not int or layers not in LAYERS:
        raise ValueError(f"projector_layers must be 1, 2 or 3, is {shown(layers)}")
    if hidden is not None and layers == 1:
        raise ValueError(f"projector_hidden is {hidden}, and projector_layers is 1")
    return dim, layers, hidden


def _checked_range(value_range: object) -> tuple[float, float] | None:
    if value_range is None:
        return None
    numbers = value_range if isinstance(value_range, list) else []
    known = [n for n in numbers if type(n) in (int, float) and abs(n) < _LARGEST_VALUE]
    if len(known) != 2 or len(numbers) != 2 or not known[0] < known[1]:
        raise ValueError(f"value_range must be two rising numbers, is {shown(value_range)}")
    return float(known[0]), float(known[1])


def _checked_background(background: object) -> str:
    if not isinstance(background, str):
        raise ValueError(f"background must be the name of a color, is {shown(background)}")
    color_of(background)
    return background


def _checked_args(model_args: object, foreign: bool) -> dict:
    """Return the arguments if all are known to be safe: some others make timm open files."""
    if not isinstance(model_args, dict):
        raise ValueError(f"'model_args' must be a dict, is {shown(model_args)}")
    model_args = dict(model_args)
    if foreign:
        model_args.pop("num_classes", None)
        size = model_args.get("img_size")
        if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
            model_args["img_size"] = size[0]
    for key, value in model_args.items():
        if key in BACKBONE_ARGS:
            most = _LARGEST[key]
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(
                    f"{key} of model_args must be a whole number from 1 to {most}, is "
                    f"{shown(value)}"
                )
        elif type(value) is not _TIMM_ARGS.get(key):
            raise ValueError(
                f"model_args may hold {', '.join([*BACKBONE_ARGS, *_TIMM_ARGS])}, not "
                f"{shown({key: value})}"
            )
    return model_args

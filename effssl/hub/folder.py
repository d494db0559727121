"""The model folder: what is saved, and loaded again without a tensor unaccounted for.

config.json             timm's keys, and one object ``effssl`` with the projector's widths
model.safetensors       the bare backbone under timm's names, so that timm loads it alone
projector.safetensors   the projector
training.json           how it was trained
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from pathlib import Path

import safetensors
import timm
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from effssl.model import BACKBONE_ARGS, SSLModel, build_backbone

FORMAT_VERSION = 1


def save_pretrained(
    model: SSLModel, folder: str | os.PathLike, *, training: dict | None = None
) -> None:
    """Write a model folder under a temporary name, then put it in the place of an earlier one.

    Args:
        model: The model; its device and memory format do not matter.
        folder: Where to; its parent is made if missing.
        training: How the model was trained, for training.json; the file is left out if None.

    Raises:
        FileExistsError: If the folder exists and is not a model folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        try:
            _read_config(folder)
        except (ValueError, FileNotFoundError) as error:
            raise FileExistsError(
                f"{folder} exists and is not a model folder: choose another"
            ) from error
    partial = folder.with_name(f".{folder.name}.partial")
    earlier = folder.with_name(f".{folder.name}.earlier")
    for leftover in (partial, earlier):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_weights(model.backbone, partial / "model.safetensors")
        _write_weights(model.projector, partial / "projector.safetensors")
        _write_json(_config(model), partial / "config.json")
        if training is not None:
            _write_json(training, partial / "training.json")
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(earlier)
    partial.rename(folder)
    shutil.rmtree(earlier, ignore_errors=True)


def from_pretrained(
    folder: str | os.PathLike, *, num_classes: int | None = None
) -> SSLModel | nn.Module:
    """Load a model folder.

    Args:
        folder: What `save_pretrained` wrote, such as ``runs/first/model``.
        num_classes: Width of a fresh classifier; None for features.

    Returns:
        Without num_classes an `SSLModel` in eval mode with gradients off: ``model(x)`` gives
        features, (N, F). With num_classes timm's backbone with a randomly initialised classifier,
        in train mode with gradients on: ``model(x)`` gives logits, (N, num_classes).

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If a file is truncated, is not of this format, or does not fit the others.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no model folder {str(folder)!r}")
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, or None for features; got {num_classes}")
    config = _read_config(folder)
    backbone = build_backbone(config["architecture"], config["model_args"])
    # a model that timm builds describes ImageNet weights; these are what the folder says they are
    backbone.pretrained_cfg = backbone.default_cfg = dict(config["pretrained_cfg"])
    model = SSLModel(backbone, config["effssl"]["projector_dim"], dict(config["model_args"]))
    _load_weights(model.backbone, folder / "model.safetensors")
    _load_weights(model.projector, folder / "projector.safetensors")
    if num_classes is None:
        return model.eval().requires_grad_(False)
    backbone.reset_classifier(num_classes)
    return backbone.train()


def read_training(folder: str | os.PathLike) -> dict:
    """What training.json of a model folder says; empty if there is none."""
    path = Path(folder) / "training.json"
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a run computes."""
    packages = ("effssl", "torch", "torchvision", "timm", "accelerate", "datasets")
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in packages
    }


def _config(model: SSLModel) -> dict:
    cfg = model.backbone.pretrained_cfg
    return {
        "architecture": cfg["architecture"],
        "num_classes": 0,
        "num_features": model.num_features,
        "model_args": model.backbone_args,
        "pretrained_cfg": cfg,
        "effssl": {"format": FORMAT_VERSION, "projector_dim": model.projector_dim},
    }


def _read_config(folder: Path) -> dict:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no config.json in {str(folder)!r}: not a model folder")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("effssl"), dict):
        raise ValueError(
            f"{path} has no 'effssl' object: not saved by effssl.save_pretrained; a timm folder "
            f"loads with timm.create_model('local-dir:{folder}', pretrained=True)"
        )
    if config["effssl"].get("format") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {config['effssl'].get('format')!r}; this effssl reads format "
            f"{FORMAT_VERSION}: use the version of effssl that wrote it"
        )
    kinds = {"architecture": str, "model_args": dict, "pretrained_cfg": dict}
    for key, kind in kinds.items():
        if not isinstance(config.get(key), kind):
            raise ValueError(f"{path}: {key!r} must be a {kind.__name__}, is {config.get(key)!r}")
    # the folder may come from anybody: timm would open files for some other arguments
    foreign = {
        name: value
        for name, value in config["model_args"].items()
        if name not in BACKBONE_ARGS or type(value) is not int
    }
    if foreign:
        raise ValueError(
            f"{path}: model_args may hold whole numbers for {', '.join(BACKBONE_ARGS)}, not "
            f"{foreign}"
        )
    dim = config["effssl"].get("projector_dim")
    if not isinstance(dim, int) or not 1 <= dim <= 65536:
        raise ValueError(f"{path}: projector_dim must be 1 to 65536, is {dim!r}")
    if not timm.is_model(config["architecture"]):
        raise ValueError(
            f"{path}: unknown architecture {config['architecture']!r}; a newer timm may know it"
        )
    return config


def _write_weights(module: nn.Module, path: Path) -> None:
    # safetensors takes neither channels-last nor shared tensors
    weights = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:  # it hides the system's error
        raise OSError(f"{path.name}: {error}") from error


def _load_weights(module: nn.Module, path: Path) -> None:
    """Load every tensor of a file into every tensor of a module, or say what does not fit."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the model folder is not whole")
    try:
        weights = load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from error
    expected = module.state_dict()
    misfits = [f"lacks {name}" for name in expected if name not in weights]
    misfits += [f"has unknown {name}" for name in weights if name not in expected]
    misfits += [
        f"{name} is {_shape(weights[name])}, not {_shape(expected[name])}"
        for name in expected
        if name in weights and weights[name].shape != expected[name].shape
    ]
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise ValueError(
            f"{path} does not fit the model of config.json: {'; '.join(misfits[:3])}{more}"
        )
    module.load_state_dict(weights)


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "a scalar"


def _write_json(content: dict, path: Path) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")

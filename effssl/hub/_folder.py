"""The model folder: what is saved, and loaded again without a tensor unaccounted for.

config.json             timm's keys, and one object ``effssl``
model.safetensors       the bare backbone under timm's names, so that timm loads it alone
projector.safetensors   the projector
training.json           how it was trained and what was measured
linear_probe.safetensors  a linear classifier of the features, if one was trained
README.md               the card, once `effssl.hub._card.write_card` has made it
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from effssl.hub._model_config import (
    WEIGHT_FILES,
    ModelConfig,
    compose_config,
    read_config,
    read_json,
)
from effssl.hub._weights import (
    check_weights,
    describe_file,
    fill,
    read_weights,
    save_weights,
    without_initial_values,
)
from effssl.model import SSLModel, build_backbone, untrained_cfg
from effssl.naming import ModelName

logger = logging.getLogger(__name__)

CARD = "README.md"
PROBE = "linear_probe.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.tar", "*.pkl")


def save_pretrained(
    model: SSLModel,
    folder: str | os.PathLike,
    *,
    training: dict | None = None,
    license: str | None = None,
) -> None:
    """Write a model folder under a temporary name, then put it in the place of an earlier one.

    The card of an earlier one is kept, for what was written in it by hand.

    Args:
        model: The model; its device and memory format do not matter.
        folder: Where to; its parent is made if missing.
        training: How the model was trained, for training.json; the file is left out if None. The
            name of the model is made from its ``config``.
        license: Of the weights, by its identifier on the Hub, such as ``apache-2.0``.

    Raises:
        FileExistsError: If the folder exists and is not a model folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not is_model_folder(folder):
            raise FileExistsError(f"{folder} exists and is not a model folder: choose another")
    partial = folder.with_name(f".{folder.name}.partial")
    earlier = folder.with_name(f".{folder.name}.earlier")
    for leftover in (partial, earlier):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        files = {
            WEIGHT_FILES[part]: save_weights(module, partial / WEIGHT_FILES[part])
            for part, module in model.named_children()
        }
        config = compose_config(model, files, _name(training), license)
        write_json(config, partial / "config.json")
        if training is not None:
            write_json(training, partial / "training.json")
        if (folder / CARD).is_file():
            shutil.copy2(folder / CARD, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(earlier)
    partial.rename(folder)
    shutil.rmtree(earlier, ignore_errors=True)


def load_folder(folder: Path, *, num_classes: int | None = None) -> SSLModel | nn.Module:
    """Load a model folder, of effssl or of timm; see `effssl.from_pretrained`."""
    config = read_config(folder)
    if not (folder / WEIGHT_FILES["backbone"]).is_file():
        pickles = sorted(path.name for kind in _PICKLES for path in folder.glob(kind))
        if pickles:
            raise ValueError(
                f"{folder} holds its weights in {pickles[0]}, a pickle, which runs whatever code "
                "it holds when it is read; if you trust it, convert it: "
                "safetensors.torch.save_file(torch.load(file, weights_only=True), "
                "'model.safetensors')"
            )
    sketch = build_sketch(config)
    expected = {name: module.state_dict() for name, module in sketch.named_children()}
    # shapes first, so that no more is allocated than the files hold
    for part, tensors in expected.items():
        dropped = () if config.files else _classifier(config, tensors)
        check_weights(folder / WEIGHT_FILES[part], tensors, dropped=dropped)
    for file, said in config.files.items():
        found = describe_file(folder / file)
        if found != said:
            raise ValueError(
                f"{folder / file} is damaged, or was changed since it was saved: it is {found}, "
                f"and config.json says {said}"
            )
    if not config.files:
        logger.warning("%s is timm's, not effssl's: a backbone without projector", folder)

    weights = {
        f"{part}.{name}": tensor
        for part, tensors in expected.items()
        for name, tensor in read_weights(folder / WEIGHT_FILES[part], tensors).items()
    }
    model = sketch
    if not fill(model, weights):
        _check_tables(folder, sketch, weights)
        with without_initial_values():
            model = _build(config)
        model.load_state_dict(weights)
    if num_classes is None:
        return model.eval().requires_grad_(False)
    model.backbone.reset_classifier(num_classes)
    return model.backbone.train()


def build_sketch(config: ModelConfig) -> SSLModel:
    """The model on the meta device: its structure and shapes, and no memory."""
    with torch.device("meta"), without_initial_values():
        return _build(config)


def read_training(folder: str | os.PathLike) -> dict:
    """What training.json of a model folder says; empty if there is none.

    Raises:
        ValueError: If it is not a JSON object.
    """
    path = Path(folder) / "training.json"
    if not path.is_file():
        return {}
    training = read_json(path)
    if not isinstance(training.get("config", {}), dict):
        raise ValueError(f"{path} does not say how a model was trained: delete it")
    return training


def add_evaluation(folder: Path, record: dict, probe: dict[str, Tensor] | None = None) -> None:
    """Note an evaluation in training.json.

    One of the same images is added to, and what both have measured is replaced.

    Args:
        folder: The model folder.
        record: From `effssl.evaluation._record`.
        probe: Weight and bias of the linear probe of the features, which get a file.
    """
    training = read_training(folder)
    # data sets that are not public have no name, but labels
    images = ("dataset", "train_split", "test_split", "train_images", "test_images", "digest")
    others = []
    for earlier in training.get("evaluation", []):
        if any(earlier.get(key) != record.get(key) for key in images):
            others.append(earlier)
        elif earlier.get("of") == record.get("of"):
            record = _joined(earlier, record)
    if probe is not None:
        partial = folder / f".{PROBE}.partial"
        save_file({name: tensor.contiguous() for name, tensor in probe.items()}, partial)
        partial.replace(folder / PROBE)
        record = record | {"probe": describe_file(folder / PROBE)}
        others = [{k: v for k, v in earlier.items() if k != "probe"} for earlier in others]
    elif not any("probe" in kept for kept in [*others, record]):
        (folder / PROBE).unlink(missing_ok=True)
    write_json(training | {"evaluation": [*others, record]}, folder / "training.json")


def _joined(earlier: dict, record: dict) -> dict:
    """The later of every number that both have, and what one of them has."""
    both = earlier | record
    for kind in ("top1", "top5"):
        before, now = earlier.get(kind, {}), record.get(kind, {})
        names = dict.fromkeys([*max(before, now, key=len), *now])
        both[kind] = {name: before.get(name, {}) | now.get(name, {}) for name in names}
    for kind in ("protocols", "seeds"):
        both[kind] = earlier.get(kind, {}) | record.get(kind, {})
    both["spectrum"] = record.get("spectrum") or earlier.get("spectrum", {})
    return both


def write_json(content: dict, path: Path) -> None:
    """Under a temporary name, then in its place; no number may be other than finite."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _build(config: ModelConfig) -> SSLModel:
    backbone = build_backbone(config.architecture, config.model_args)
    # a model that timm builds describes ImageNet weights; these are what the folder says they are
    cfg = untrained_cfg(backbone.pretrained_cfg) | config.pretrained_cfg
    cfg |= {"architecture": config.architecture.partition(".")[0], "num_classes": 0}
    backbone.pretrained_cfg = backbone.default_cfg = cfg
    return SSLModel(backbone, config.projector_dim, dict(config.model_args))


def is_model_folder(folder: Path) -> bool:
    """Whether a folder is a model folder of effssl with all of its weights, by their names."""
    try:
        files = read_config(folder).files
    except (ValueError, FileNotFoundError):
        return False
    return bool(files) and all((folder / name).is_file() for name in files)


def _check_tables(folder: Path, sketch: SSLModel, weights: dict[str, Tensor]) -> None:
    """Refuse what is made and not saved, such as tables of positions, if it is huge."""
    made = sum(tensor.nbytes for name, tensor in sketch.named_buffers() if name not in weights)
    most = max(256_000_000, 4 * sum(tensor.nbytes for tensor in weights.values()))
    if made > most:
        raise ValueError(
            f"{folder / 'config.json'} asks for tables of {made:,} bytes beside the weights: more "
            f"than the {most:,} that they may have"
        )


def _classifier(config: ModelConfig, expected: dict[str, Tensor]) -> set[str]:
    """Names that timm's own weights hold beside the backbone's."""
    with torch.device("meta"), without_initial_values():
        whole = timm.create_model(config.architecture, num_classes=1000, **config.model_args)
    return whole.state_dict().keys() - expected.keys()


def _name(training: dict | None) -> ModelName | None:
    """The name of a model that was trained as effssl does it."""
    made = (training or {}).get("config", {})
    parts = [made.get(key) for key in ("backbone", "loss", "projector_dim", "views")]
    try:
        return ModelName.parse(str(ModelName(*parts)))
    except ValueError:
        return None

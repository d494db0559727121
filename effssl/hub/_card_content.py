"""Content of a model card, as variables of its template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from effssl.background import DROP
from effssl.hub._card_evaluation import (
    data_name,
    evaluation_content,
    good_for,
    limits_of,
    probe_content,
)
from effssl.hub._figures import FIGURES
from effssl.hub._folder import PROBE, TRAINING, build_sketch
from effssl.hub._license import License
from effssl.hub._model_config import ModelConfig
from effssl.local import SAMPLES
from effssl.loss_specs import LOSSES, papers_of
from effssl.model import SSLModel
from effssl.own import is_object, is_own
from effssl.papers import METHOD
from effssl.records import TrainingRecord
from effssl.views.options import ViewOptions

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# the packaged samples are part of a dataset on the Hub, one of them with its objects moved
DATA_IDS = dict.fromkeys(SAMPLES, "zalando-datasets/fashion_mnist")
_DATA_LICENSES = {"zalando-datasets/fashion_mnist": "MIT, copyright Zalando SE"}


def card_content(
    config: ModelConfig, training: TrainingRecord, repo_id: str, license: License | None
) -> dict:
    """Return the variables of card.md.jinja.

    Args:
        config: Configuration of the model.
        training: Record of the model; an empty one if there is none.
        repo_id: ``owner/name``.
        license: License of the weights; None if it is not known.

    Raises:
        KeyError: If training lacks something that effssl writes.
    """
    model, map_shape = build_sketch(config), None
    channels, size = config.pretrained_cfg["input_size"][:2]
    try:
        with torch.inference_mode(), torch.device("meta"):
            images = torch.empty(1, channels, size, size)
            map_shape = list(model.eval().backbone.forward_features(images).shape)
    except Exception:  # noqa: BLE001, S110  anything, of a size that nobody tried
        pass  # not every timm backbone runs on the meta device
    mode = _MODES.get(channels)
    image = f'import numpy as np\n\nimage = np.zeros(({channels}, {size}, {size}), "uint8")'
    if mode:
        image = 'from PIL import Image\n\nimage = Image.open("image.png")'
    name, trained = config.name, training.config or {}
    papers = papers_of(name.loss) if name else ()
    return {
        "good_for": good_for(training.evaluation, trained.get("dataset")),
        "title": str(name or repo_id.partition("/")[2]),
        "repo_id": repo_id,
        "backbone": name.backbone if name else config.architecture,
        "architecture": config.architecture,
        "loss": _title(name.loss) if name else None,
        "views": name.views if name else None,
        "of_sizes": _sizes(trained),
        "started_from": started_from(config, trained),
        "projector_dim": config.projector_dim,
        "data": _data(training),
        "channels": channels,
        "size": size,
        "num_features": model.num_features,
        "map_shape": map_shape,
        "small": config.architecture.endswith("_cifar"),
        "mode": mode,
        "image": image,
        "facts": _facts(config, training, model),
        "evaluations": [evaluation_content(found) for found in training.evaluation],
        "probe": probe_content(training.evaluation),
        "probe_file": PROBE,
        "training_file": TRAINING,
        "has_spectrum": any(found.spectrum for found in training.evaluation),
        "has_history": bool(training.history),
        "figures": dict(zip(("loss", "spectrum"), FIGURES, strict=True)),
        "command": _command(config, training),
        "has_start": not _starts_from_private(config, trained),
        "has_data": trained.get("dataset") is not None,
        "training": _training(training),
        "limits": _limits(config, training),
        "licenses": _licenses(license, trained),
        "citations": [paper.bibtex for paper in (METHOD, *papers)],
    }


def _facts(config: ModelConfig, training: TrainingRecord, model: SSLModel) -> list[tuple[str, str]]:
    cfg = config.pretrained_cfg
    facts = [
        (f"Parameters of the {name}", f"{sum(p.numel() for p in module.parameters()):,}")
        for name, module in model.named_children()
    ]
    side, share = cfg["input_size"][-1], cfg.get("crop_pct", 1.0)
    transform = (
        f"shorter side to {int(side / share)} px ({cfg.get('interpolation', 'bilinear')}), center "
        f"crop of {side} px, {_values(config)}, mean {_numbers(cfg['mean'])}, std "
        f"{_numbers(cfg['std'])}"
    )
    if config.background != DROP and cfg["input_size"][0] in (1, 3):
        transform += (
            f"; transparent pixels are laid on {config.background}, by effssl alone: lay them "
            "there before another library drops them"
        )
    facts += [("Features", f"{model.num_features:,}"), ("Transform", transform)]
    files = [(name, file, "") for name, file in config.files.items()]
    files += [
        (PROBE, found.probe, f"weight and bias of the linear probe on {data_name(found.dataset)}; ")
        for found in training.evaluation
        if found.probe is not None
    ]
    facts += [
        (f"`{name}`", f"{text}{file['bytes']:,} bytes, sha256 `{file['sha256']}`")
        for name, file, text in files
    ]
    return facts


def _training(training: TrainingRecord) -> list[tuple[str, str]]:
    if training.config is None:
        return []
    config, versions = training.config, training.versions
    rows = {
        "Images": f"{training.images:,}",
        "Epochs": f"{training.epoch:,}",
        "Steps": f"{training.step:,} of {config['batch_size']:,} images",
        "Images seen": f"{training.images_seen:,}",
        "Views seen": f"{training.views_seen:,}",
        "Views": f"{_preset(config)}, {_sizes(config) or str(config['img_size']) + ' px'}"
        + _changes(config),
        "Optimizer": f"{config['optimizer']}, lr {config['lr']:g}, scaled by the batch: "
        f"{config['lr_scaling']}; weight decay {config['weight_decay']:g}; cosine decay after a "
        f"warm-up of {config['warmup_epochs']:g} epochs or a tenth of the run",
        **_average(config),
        "Seed": str(config["seed"]),
        "Precision": {"no": "float32"}.get(training.precision, training.precision),
        "Hardware": training.hardware,
        "Minutes": f"{training.minutes:,}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return list(rows.items())


def _command(config: ModelConfig, training: TrainingRecord) -> str | None:
    """Return the command of the training, with places to name what is private."""
    command = training.command
    if command is None:
        return None
    if _starts_from_private(config, training.config or {}):
        command += " --init path/to/weights"  # else it would start from random ones
    if "--dataset" not in command.split():
        command += " --dataset path/to/images"  # else it would be that of the sample
    return command


def _starts_from_private(config: ModelConfig, trained: Mapping[str, Any]) -> bool:
    """Return whether a training went on from weights that others cannot load."""
    return config.base is not None and not (trained.get("init") or trained.get("pretrained"))


def _average(trained: Mapping[str, Any]) -> dict[str, str]:
    if trained.get("ema") is None:
        return {}
    return {"Weights": f"exponential moving average over the steps, decay {trained['ema']:g}"}


def _changes(config: Mapping[str, Any]) -> str:
    """Return in words what a run changed in its preset."""
    view = ViewOptions.of(config.get("view", {}))
    return f", with {view}" if view.given() else ""


def own_code(trained: Mapping[str, Any]) -> list[str]:
    """Return the names of code of one's own that a run used, which its record does not hold."""
    found = [trained[name] for name in ("loss", "preset") if is_own(trained.get(name))]
    if is_object(str(trained.get("init"))):
        found.append(trained["init"])
    whole = ViewOptions.of(trained.get("view", {})).is_whole
    return [name for name in found if not (whole and name == trained.get("preset"))]


def _title(loss: str) -> str:
    if loss in LOSSES:
        return LOSSES[loss].title
    return f"a loss that is not part of effssl (`{loss.removeprefix('own_')}`)"


def _preset(trained: Mapping[str, Any]) -> str:
    name = trained["preset"]
    return f"of one's own, `{name}`" if is_own(name) else f"preset {name}"


def _values(config: ModelConfig) -> str:
    if config.value_range is None:
        return "values from 0 to 1"
    low, high = config.value_range
    return f"stored values from {low:g} to {high:g} mapped to 0 to 1 (by effssl, not by timm)"


def _limits(config: ModelConfig, training: TrainingRecord) -> list[str]:
    channels, size = config.pretrained_cfg["input_size"][:2]
    limits = []
    if training.config is not None:
        before, local = started_from(config, training.config), training.config.get("local_views")
        limits.append(
            f"It was trained on {channels}-channel views of {size} px only"
            + (f", beside local ones of {training.config['local_size']} px" if local else "")
            + (f", after what {before} was trained on" if before else "")
            + "; other images, sizes and tasks were not tried."
        )
    own = [name for name in own_code(training.config or {}) if name]
    if own:
        limits.append(
            "The run is not reproducible from its configuration alone: "
            + " and ".join(f"`{name}`" for name in own)
            + " is code of those who trained it, which is not part of effssl."
        )
    for found in training.evaluation:
        limits += limits_of(found, named=len(training.evaluation) > 1)
    limits.append("Features repeat whatever bias the images have; nothing was done about it.")
    return limits


def _licenses(license: License | None, trained: dict) -> list[str]:
    licenses = [] if license is None else [f"Weights: {license}."]
    data = DATA_IDS.get(trained.get("dataset"), trained.get("dataset"))
    if data in _DATA_LICENSES:
        licenses.append(f"Images of the training: {_DATA_LICENSES[data]}.")
    elif data:
        licenses.append(f"Images of the training: see https://huggingface.co/datasets/{data}.")
    return licenses


def _sizes(trained: dict) -> str:
    """Return the views of each size in words; empty if all are of one."""
    if not trained.get("local_views"):
        return ""
    return (
        f"{trained['views']} of {trained['img_size']} px and {trained['local_views']} local ones "
        f"of {trained['local_size']} px"
    )


def started_from(config: ModelConfig, trained: dict) -> str | None:
    """Return the name of the weights that training started from; None if they were random."""
    if config.base is not None:
        return config.base.model
    # of a run of an earlier version, which noted no more
    return f"timm/{trained['backbone']}" if trained.get("pretrained") else None


def repository_of(config: ModelConfig, trained: dict) -> str | None:
    """Return the repository of those weights, if they are on the Hub."""
    return started_from(config, trained) if config.base is None else config.base.repository


def _data(training: TrainingRecord) -> str | None:
    if training.config is None:
        return None
    return f"{training.images:,} images of {data_name(training.config.get('dataset'))}"


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)

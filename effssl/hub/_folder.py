"""The model folder: saving, and loading with a check of every tensor.

config.json               timm's keys, and one object ``effssl``
model.safetensors         the backbone under timm's names, so that timm loads it alone
projector.safetensors     the projector
training.json             how it was trained, and evaluations
linear_probe.safetensors  a linear classifier of the features, if one was trained
README.md                 the card, once `effssl.hub._card.write_card` has written it
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from effssl.atomic import one_writer, replacing, replacing_folder, write_json
from effssl.foreign import file_within, read_bytes, read_json
from effssl.hub._figures import FIGURES
from effssl.hub._license import check_license
from effssl.hub._model_config import (
    WEIGHT_FILES,
    ModelConfig,
    compose_config,
    read_config,
)
from effssl.hub._renewal import read_whole
from effssl.hub._tensor_file import TensorFile, open_tensors
from effssl.hub._weights import (
    check_tables,
    check_weights,
    classifier_of,
    describe_file,
    fill,
    read_weights,
    save_weights,
    without_initial_values,
)
from effssl.model import SSLModel, warn_of_default_input
from effssl.naming import ModelName, loss_word
from effssl.records import EvaluationRecord, TrainingRecord
from effssl.shown import one_line, shown
from effssl.timm_backbone import build_backbone, untrained_cfg

logger = logging.getLogger(__name__)

CARD = "README.md"
TRAINING = "training.json"
PROBE = "linear_probe.safetensors"
MODEL_FILES = {"config.json", CARD, TRAINING, PROBE, *FIGURES, *WEIGHT_FILES.values()}
"""Names that a model folder has from effssl; a new one keeps files of other names."""
MOST_CARD = 1_000_000
"""Largest size of a card in bytes."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.tar", "*.pkl")


def save_pretrained(
    model: SSLModel,
    folder: str | os.PathLike,
    *,
    training: dict | None = None,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
) -> None:
    """Write a model folder, whole or not at all, in place of an earlier one.

    It holds what `from_pretrained`, timm and transformers need to load the model and transform
    images as its training did. A model that was loaded keeps its name, which says loss and views,
    its tag, papers and license. Its history and evaluations are of the weights that were loaded,
    and stay behind.

    The card of the earlier folder is kept, since it may hold text by hand, and so is what others
    have put into it.

    Args:
        model: The model, on any device and in any memory format.
        folder: Path of the folder; its parent is created if missing.
        training: Content of training.json; no such file if None. The name of the model comes from
            its ``config``, if there is one.
        license: License of the weights, by its identifier on the Hub, such as ``apache-2.0``; that
            of the model that was loaded, if any, if None.
        license_name: Name of the license if ``license`` is ``other``.
        license_link: Address of its text likewise, or LICENSE for a file of the repository.

    Raises:
        FileExistsError: If the folder exists and is not a model folder.
        ValueError: If the Hub does not know the license.
    """
    warn_of_default_input(model)
    granted = check_license(license, license_name, license_link)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not is_model_folder(folder):
            raise FileExistsError(f"{folder} exists and is not a model folder: choose another")
    with one_writer(folder), replacing_folder(folder, written=MODEL_FILES) as partial:
        files = {
            WEIGHT_FILES[part]: save_weights(module, partial / WEIGHT_FILES[part])
            for part, module in model.named_children()
        }
        config = compose_config(model, files, _name(training), granted)
        write_json(partial / "config.json", config)
        if training is not None:
            write_json(partial / TRAINING, training)
        if (folder / CARD).is_file():
            _keep_card(folder, partial)


def _keep_card(folder: Path, partial: Path) -> None:
    """Copy the card of the earlier folder, but not what a link to elsewhere leads to."""
    try:
        card = read_bytes(file_within(folder / CARD, folder), MOST_CARD)
    except ValueError as error:
        logger.warning("%s; the card is left out", error)
    else:
        (partial / CARD).write_bytes(card)


def load_folder(folder: Path, *, num_classes: int | None = None) -> SSLModel | nn.Module:
    """Load a model folder of effssl or timm; see `effssl.from_pretrained`."""
    return read_whole(folder, lambda: _load(folder, num_classes))


def _load(folder: Path, num_classes: int | None) -> SSLModel | nn.Module:
    config, model, weights = _read(folder)
    if not config.files:
        logger.warning("%s is timm's, not effssl's: a backbone without projector", folder)
    if not fill(model, weights):
        check_tables(folder, model, weights)
        with without_initial_values():
            model = _build(config)
        model.load_state_dict(weights)
    if num_classes is None:
        return model.eval().requires_grad_(False)
    model.backbone.reset_classifier(num_classes)
    return model.backbone.train()


def read_folder(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read a model folder of effssl or timm, with the checks of `effssl.from_pretrained`.

    Returns:
        What config.json says, and the weights by name, with ``backbone.`` or ``projector.`` in
        front.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is truncated, not of this format, or does not fit the others.
    """

    def read() -> tuple[ModelConfig, dict[str, Tensor]]:
        config, sketch, weights = _read(folder)
        check_tables(folder, sketch, weights)
        return config, weights

    return read_whole(folder, read)


def _read(folder: Path) -> tuple[ModelConfig, SSLModel, dict[str, Tensor]]:
    """Return configuration, model on the meta device, and weights of a folder."""
    with ExitStack() as stack:
        # one after the other, so that they are hardly ever of two models
        config = read_config(folder)
        files = _open_weights(folder, config, stack)
        check_features(config)
        model = build_sketch(config)
        return config, model, _read_weights(config, files, model)


def _open_weights(folder: Path, config: ModelConfig, stack: ExitStack) -> dict[str, TensorFile]:
    """Open the file of weights of each part of a model."""
    if not (folder / WEIGHT_FILES["backbone"]).is_file():
        pickles = sorted(path.name for kind in _PICKLES for path in folder.glob(kind))
        if pickles:
            raise ValueError(
                f"{folder} holds its weights in {shown(pickles[0])[1:-1]}, a pickle, which runs "
                "whatever code it holds when it is read; if you trust it, convert it: "
                "safetensors.torch.save_file(torch.load(file, weights_only=True), "
                "'model.safetensors')"
            )
    parts = ["backbone"] if config.projector_dim is None else list(WEIGHT_FILES)
    return {part: stack.enter_context(open_tensors(folder / WEIGHT_FILES[part])) for part in parts}


def _read_weights(
    config: ModelConfig, files: dict[str, TensorFile], sketch: SSLModel
) -> dict[str, Tensor]:
    """Read the tensors of a model, after a check of the headers of all files."""
    expected = {name: module.state_dict() for name, module in sketch.named_children()}
    # check shapes first, to allocate no more than the files hold
    for part, tensors in expected.items():
        whole = config.architecture, config.model_args
        dropped = () if config.files else classifier_of(*whole, tensors)
        check_weights(files[part], tensors, dropped=dropped)
    weights = {}
    for part, tensors in expected.items():
        read = read_weights(files[part], tensors, config.files.get(WEIGHT_FILES[part]))
        weights |= {f"{part}.{name}": tensor for name, tensor in read.items()}
    return weights


def build_sketch(config: ModelConfig) -> SSLModel:
    """Build the model on the meta device: structure and shapes without memory."""
    with torch.device("meta"), without_initial_values():
        return _build(config)


def check_features(config: ModelConfig) -> None:
    """Check that a backbone gives one vector an image where timm's arguments may change that.

    Raises:
        ValueError: If it does not, or cannot take images of the size in config.json.
    """
    if not config.has_timm_args:
        return
    # another sketch, since a backbone may keep tables from a pass
    sketch = build_sketch(config).eval()
    size = sketch.backbone.pretrained_cfg["input_size"]
    told = f"config.json: {config.architecture} with {config.model_args}"
    try:
        with torch.inference_mode():
            found = tuple(sketch(torch.empty(1, *size, device="meta")).shape)
    except Exception as error:  # noqa: BLE001  timm raises anything of arguments that nobody tried
        raise ValueError(f"{told} cannot compute features: {one_line(error, 300)}") from error
    if found != (1, sketch.num_features):
        raise ValueError(
            f"{told} gives features of shape {found} for an image, not {sketch.num_features} "
            "numbers: give another global_pool"
        )


def read_training(folder: str | os.PathLike) -> dict:
    """Read training.json of a model folder; an empty dict if there is none.

    Raises:
        ValueError: If it is not a JSON object.
    """
    path = Path(folder) / TRAINING
    if not path.is_file():
        return {}
    training = read_json(path)
    if not isinstance(training.get("config", {}), dict):
        raise ValueError(f"{path} does not say how a model was trained: delete it")
    return training


def read_record(folder: str | os.PathLike) -> TrainingRecord:
    """Read training.json of a model folder as a record; an empty one if there is no such file.

    Raises:
        ValueError: If it is not a JSON object, or its evaluations are not a list of objects.
    """
    try:
        return TrainingRecord.from_json(read_training(folder))
    except ValueError as error:
        raise ValueError(f"{Path(folder) / TRAINING}: {error}") from error


def add_evaluation(
    folder: Path,
    record: EvaluationRecord,
    probe: dict[str, Tensor] | None = None,
    *,
    files: Mapping[str, dict] | None = None,
) -> None:
    """Note an evaluation in training.json, merged into an earlier one that it extends.

    Args:
        folder: Model folder.
        record: Record from `effssl.evaluation.record`.
        probe: Weight and bias of the linear probe, to be written to a file.
        files: Bytes and sha256 of the weights that were evaluated, from the folder's config.json;
            those that are there now if None.

    Raises:
        OSError: If the folder cannot be written, or has other weights by now.
    """
    if probe is None and record.class_names:  # which are published with it
        record = dataclasses.replace(record, class_names=[])
    with one_writer(folder):
        if files is not None and read_config(folder).files != files:
            raise OSError(
                "it was renewed in the meantime, and the numbers are of earlier weights: evaluate "
                "again"
            )
        _add_evaluation(folder, record, probe)


def with_earlier(folder: Path, record: EvaluationRecord) -> EvaluationRecord:
    """Return an evaluation with what was noted in a model folder earlier; write nothing.

    Args:
        folder: Model folder. One whose training.json cannot be read has noted nothing.
        record: Record from `effssl.evaluation.record`.
    """
    try:
        return read_record(folder).add(record)
    except (ValueError, OSError) as error:
        logger.warning("earlier evaluations are not shown: %s", one_line(error))
        return record


def _add_evaluation(
    folder: Path, record: EvaluationRecord, probe: dict[str, Tensor] | None
) -> None:
    training = read_record(folder)
    noted = training.add(record)
    if probe is not None:
        with replacing(folder / PROBE, "wb") as file:
            file.write(save({name: tensor.contiguous() for name, tensor in probe.items()}))
        training.set_probe(noted, describe_file(folder / PROBE))
    elif not any(one.probe for one in training.evaluation):
        (folder / PROBE).unlink(missing_ok=True)
    write_json(folder / TRAINING, training.to_json())


def _build(config: ModelConfig) -> SSLModel:
    try:
        backbone = build_backbone(config.architecture, config.model_args)
    except Exception as error:  # noqa: BLE001  timm raises anything of arguments that nobody tried
        reason = one_line(error, 500) or type(error).__name__
        if not isinstance(error, ValueError):
            reason = f"timm cannot build {config.architecture} with {config.model_args}: {reason}"
        raise ValueError(f"config.json: {reason}") from error
    # timm's own description is that of ImageNet weights
    cfg = untrained_cfg(backbone.pretrained_cfg) | config.pretrained_cfg
    cfg |= {"architecture": config.architecture.partition(".")[0], "num_classes": 0}
    cfg |= {} if config.value_range is None else {"value_range": config.value_range}
    cfg |= {"background": config.background}
    backbone.pretrained_cfg = backbone.default_cfg = cfg
    model = SSLModel(
        backbone,
        config.projector_dim,
        dict(config.model_args),
        projector_layers=config.projector_layers,
        projector_hidden=config.projector_hidden,
    )
    model.name, model.license, model.base = config.name, dict(config.license), config.base
    return model


def is_model_folder(folder: Path) -> bool:
    """Whether a folder is a model folder of effssl and holds all files of weights."""
    try:
        files = read_config(folder).files
    except (ValueError, FileNotFoundError):
        return False
    return bool(files) and all((folder / name).is_file() for name in files)


def _name(training: dict | None) -> ModelName | None:
    """Return the name of a model that effssl trained."""
    made = (training or {}).get("config", {})
    parts = [made.get(key) for key in ("backbone", "loss", "projector_dim", "views")]
    if type(parts[-1]) is type(made.get("local_views")) is int:
        parts[-1] += made["local_views"]
    parts[1] = loss_word(str(parts[1]))
    try:
        return ModelName.parse(str(ModelName(*parts)))
    except ValueError:
        return None

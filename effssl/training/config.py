"""What a pretraining run is: one frozen dataclass whose fields are the command-line flags.

This module imports no torch, so that ``effssl --help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
from pathlib import Path
from typing import Literal, get_args, get_type_hints

from effssl.loss_specs import LossName
from effssl.naming import ModelName

MultiViewForm = Literal["pairs", "mean"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "fp64"]
LrScaling = Literal["none", "linear", "sqrt"]
Preset = Literal["cifar", "stl", "imagenet", "grey", "multispectral"]
Tracker = Literal["tensorboard", "trackio", "wandb"]

_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "None",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain a backbone on images without labels.

    Each field is a flag of ``effssl pretrain`` and of ``examples/pretrain.py``.

    Raises:
        ValueError: If a value is outside of what its field allows.
    """

    backbone: str = "resnet18"
    """Any backbone of timm by name, or resnet18_cifar, resnet34_cifar, resnet50_cifar."""
    pretrained: bool = False
    """Start from timm's weights of the backbone instead of random ones."""
    in_chans: int = 3
    """Channels of the images: 1 (grey), 3 (RGB) or 4 (RGBA) of files, any number of arrays."""
    img_size: int = 224
    """Side of a view in pixels."""
    patch_size: int | None = None
    """Patch of ViT, Swin and ConvNeXt backbones in pixels; the backbone's own if None."""
    projector_dim: int = 256
    """Width D of the projector; the loss's orthogonality weight follows from it."""
    loss: LossName = "bt"
    """bt (Barlow Twins), vicreg or spectral."""
    loss_weight: float | None = None
    """Of orthogonality in bt (lambd) and spectral (beta), of invariance and variance in vicreg
    beside a covariance of 1; if None from projector_dim, and 1 in spectral."""
    multiview: MultiViewForm = "pairs"
    """Of bt with more than two views: every pair, or each view against the mean of the others."""

    dataset: str = "fashion-mnist-sample"
    """The sample in the package; a folder or glob of images, parquet, .tar or .npy; or a Hub id."""
    split: str = "train"
    """Split of the data set to train on."""
    image_column: str | None = None
    """Column with the images; found by its type if None."""
    label_column: str | None = None
    """Column with classes, which nothing but the k-NN sees; found by type and name if None."""
    streaming: bool = False
    """Read the data set front to back each epoch instead of indexing it; nothing is stored."""
    workers: int | None = None
    """Decoding processes (threads of a stream); if None one for each core, up to 8."""
    cache_gb: float = 10.0
    """Decode once, to a file under HF_HOME, if the decoded images take no more; 0: every epoch."""

    views: int = 4
    """Views per image, V >= 2; a step costs V forward and backward passes."""
    preset: Preset = "imagenet"
    """What views look like: grey for 1 channel and larger crops, multispectral for any channels."""

    batch_size: int = 256
    """Images per step, summed over all processes."""
    micro_batch: int | None = None
    """Images that pass through the backbone at a time, over all processes: the gradient of the
    whole batch in less memory, for one more forward pass. All at once if None."""
    epochs: int = 100
    """Passes over the images."""
    max_steps: int | None = None
    """Stop after so many steps, if that is before the epochs end; the schedule ends there too."""
    max_minutes: float | None = None
    """Stop with a checkpoint after so many minutes; resume goes on from it."""
    optimizer: str = "adamw"
    """Any optimizer of timm by name: adamw, lars, lamb, sgd, ..."""
    lr: float = 1e-3
    """Learning rate after warm-up."""
    lr_scaling: LrScaling = "none"
    """Multiply lr by batch_size / 256 (linear: sgd, lars) or by its root (sqrt: adamw, lamb)."""
    weight_decay: float = 0.05
    """Weight decay; biases and norms have none."""
    warmup_epochs: float = 10.0
    """Epochs of linear warm-up, at most a tenth of the run; cosine decay to zero follows."""

    grad_clip: float | None = None
    """Scale the gradient of a step down to this norm if it is larger."""

    precision: Precision = "auto"
    """Of the backbone; auto is bf16 where the hardware has it, else fp32. Losses are in fp32. fp64
    is for checking that runs agree."""
    compile: bool = False
    """Compile the backbone with torch.compile; the first step then takes minutes."""
    deterministic: bool = False
    """On a GPU use deterministic operations only, which are slower. A CPU has no others."""
    seed: int = 0
    """Seed of the initial weights, the order of images and the views."""
    cpu: bool = False
    """Train on the CPU even where there is an accelerator."""
    output: str | None = None
    """Run folder; runs/{backbone}-{loss}-p{projector_dim}-aug{views} if None."""
    resume: bool = False
    """Go on from the newest checkpoint of the run folder; starts if there is none."""
    overwrite: bool = False
    """Delete what an earlier run left in the run folder."""
    checkpoint_steps: int | None = None
    """Steps between two checkpoints, beside those at the end of every epoch."""
    checkpoint_minutes: float | None = 30.0
    """Minutes between two checkpoints at most; None: at the end of epochs only."""
    keep_checkpoints: int = 2
    """Checkpoints that are kept, the newest ones."""
    stop_when_disk_full: bool = False
    """Stop if a checkpoint cannot be written; else train on and try again with the next one."""
    timeout_minutes: float = 30.0
    """With several processes: how long to wait for one that does not answer."""
    evaluate_every: int | None = None
    """Epochs between two looks at features: their spectrum, and if the data has labels the k-NN
    accuracy of held-out images. A tenth of the epochs if None; 0: never. Not of a stream."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    tracker: Tracker | None = None
    """Also log to tensorboard, trackio or wandb; pip install 'effssl[trackers]'."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            choices, value = get_args(hint), getattr(self, name)
            if choices and all(isinstance(choice, str) for choice in choices):
                self._require(value in choices, name, f"one of {', '.join(choices)}")
            elif name != "tracker":
                kinds = choices or (hint,)
                allowed = isinstance(value, (*kinds, int) if float in kinds else kinds)
                if isinstance(value, bool):  # which is an int to Python
                    allowed = bool in kinds
                self._require(allowed, name, " or ".join(_KINDS[kind] for kind in kinds))
        trackers = get_args(Tracker)
        self._require(
            self.tracker in (None, *trackers), "tracker", f"one of {', '.join(trackers)}, or None"
        )
        whole = "in_chans img_size projector_dim batch_size epochs log_every keep_checkpoints"
        for name in whole.split():
            self._require(getattr(self, name) >= 1, name, "1 or more")
        for name in ("patch_size", "max_steps", "micro_batch", "checkpoint_steps"):
            value = getattr(self, name)
            self._require(value is None or value >= 1, name, "1 or more")
        for name in ("weight_decay", "warmup_epochs", "cache_gb", "seed"):
            self._require(0 <= getattr(self, name) < math.inf, name, "0 or more")
        for name in ("lr", "timeout_minutes"):
            self._require(0 < getattr(self, name) < math.inf, name, "above 0")
        for name in ("loss_weight", "grad_clip", "max_minutes", "checkpoint_minutes"):
            value = getattr(self, name)
            self._require(value is None or 0 < value < math.inf, name, "above 0")
        for name in ("workers", "evaluate_every"):
            value = getattr(self, name)
            self._require(value is None or value >= 0, name, "0 or more")
        self._require(
            self.views >= 2, "views", "2 or more: the loss compares views of the same image"
        )
        self._require(self.batch_size >= 2, "batch_size", "2 or more: the loss is a statistic")
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other: go on, or start anew")

    def flags(self, without: tuple[str, ...] = ()) -> list[str]:
        """The command-line flags that make this configuration, but for those at their defaults.

        Args:
            without: Fields that are left out besides.
        """
        flags = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default and field.name not in without:
                flags.append("--" + field.name.replace("_", "-"))
                flags += [] if value is True else [str(value)]
        return flags

    @classmethod
    def load(cls, file: str | os.PathLike) -> PretrainConfig:
        """Read the configuration of a run from its ``config.json``.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not JSON, a key is not a field, or a value is out of bounds.
        """
        path = Path(file)
        if not path.is_file():
            raise FileNotFoundError(f"no configuration {path}: give the config.json of a run")
        try:
            values = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds no configuration but {type(values).__name__}")
        fields = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ValueError(
                    f"{path}: {name!r} is not a field of this version's PretrainConfig; {hint}"
                    "rename or delete it"
                )
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, file: Path) -> None:
        """Write what `load` reads, without what is of one launch alone: resume and overwrite."""
        values = dataclasses.asdict(self) | {"resume": False, "overwrite": False}
        partial = file.with_name(file.name + ".partial")
        partial.write_text(json.dumps(values, indent=2) + "\n")
        partial.replace(file)

    def _require(self, allowed: bool, name: str, what: str) -> None:
        if not allowed:
            raise ValueError(f"{name} must be {what}; got {getattr(self, name)!r}")

    @property
    def name(self) -> str:
        """Name of the model that the run makes, such as ``resnet50-bt-p256-aug4``."""
        return str(ModelName(self.backbone, self.loss, self.projector_dim, self.views))

    @property
    def run_folder(self) -> Path:
        """Where the run writes."""
        return Path("runs") / self.name if self.output is None else Path(self.output)

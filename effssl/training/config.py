"""Configuration of a pretraining run: a frozen dataclass whose fields are the command-line flags.

This module does not import torch, so that ``effssl --help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

from tyro.conf import arg

from effssl.atomic import write_json
from effssl.background import BACKGROUND, DROP, color_of
from effssl.foreign import load_json
from effssl.hints import did_you_mean, nearest, option, options_as_flags
from effssl.loss_specs import LOSSES, LossName, least_images
from effssl.naming import ModelName, loss_word
from effssl.own import FromFile, OwnName, is_own
from effssl.training._fields import (
    Color,
    Column,
    Dataset,
    Folder,
    GivenName,
    Name,
    Split,
    check_field,
    names_where,
    setting,
)
from effssl.views.options import NO_CHANGES, ViewOptions

if TYPE_CHECKING:
    from effssl.data.sources import Images
else:
    Images = Dataset  # what a flag or a configuration file can say

logger = logging.getLogger(__name__)

BEFORE = {"background": DROP}
"""What runs did before there was a field for it, where that is not the default of the field."""
_OF_A_RUN = {"resume", "overwrite"}  # nobody writes both into a file by hand
IN_MEMORY = "(objects in memory)"
"""What a configuration file says of a data set that was given as an object."""
TIMM = "timm"
"""Value of ``init`` for timm's own weights of the backbone."""
_BACKBONE = "resnet18"  # if none is given and no weights say it

MultiViewForm = Literal["pairs", "mean"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "fp64"]
LrScaling = Literal["none", "linear", "sqrt"]
Preset = Literal["cifar", "stl", "imagenet", "grey", "multispectral", "microscopy", "aerial"]
ValueRange = tuple[float, float] | Literal["auto"]
GivenRange = Annotated[ValueRange | None, arg(metavar="LOW HIGH | auto")]
InitProjector = Literal["on", "off"]
Tracker = Literal["tensorboard", "trackio", "wandb"]
_LOSSES, _PRESETS = (f"{{{','.join(get_args(one))}}}|MODULE:NAME" for one in (LossName, Preset))
GivenLoss = Annotated[LossName | OwnName, arg(metavar=_LOSSES)]
GivenPreset = Annotated[Preset | OwnName, arg(metavar=_PRESETS)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain a backbone on images without labels.

    Each field is a flag of ``effssl pretrain`` and of ``examples/pretrain.py``. In Python,
    ``dataset`` also takes a path, a ``datasets.Dataset``, or a list of paths, PIL images or arrays.

    Raises:
        ValueError: If a value has the wrong type or is out of bounds.
    """

    backbone: GivenName = setting(None)
    """Name of a timm backbone, or resnet18_cifar, resnet34_cifar or resnet50_cifar. If None, that
    of the weights of init, else resnet18."""
    pretrained: bool = setting(False)
    """Start from timm's default weights of the backbone, or those of its tag; the same as init
    timm."""
    init: GivenName = setting(None, published="if public")
    """Weights to go on from: a run or model folder, an effssl or timm repository owner/name on the
    Hub, a model of the package, or timm for timm's weights of the backbone. Their mean, std and
    interpolation stay. Random weights if None."""
    init_projector: InitProjector = setting("on")
    """Whether the projector of init comes along, where it has the layers and widths asked for."""
    in_chans: int = setting(3, least=1)
    """Channels of the images: 1 (gray), 3 (RGB) or 4 (RGBA) for files, any number for arrays."""
    img_size: int = setting(224, least=1)
    """Side of a view in pixels."""
    patch_size: int | None = setting(None, least=1)
    """Patch size of ViT, Swin and ConvNeXt backbones in pixels; the backbone's default if None."""
    projector_dim: int = setting(256, least=1)
    """Width D of the projector; the default loss weight follows from it."""
    projector_layers: int = setting(2, least=1, most=3)
    """Number of linear layers of the projector, 1 to 3."""
    projector_hidden: int | None = setting(None, least=1)
    """Width between the layers of the projector; projector_dim if None."""
    drop_path: float = setting(0.0, least=0, most=1)
    """Probability that the last residual block is skipped for an image (stochastic depth), rising
    to that from block to block; drawn in each process on its own."""
    loss: GivenLoss = setting("bt")
    """Loss: bt (Barlow Twins), vicreg, spectral, simclr (NT-Xent), sigreg (LeJEPA), coding_rate
    (EMP-SSL), wmse (W-MSE), or a function of one's own of projections (V, N, D), such as
    my_losses:contrast for contrast in my_losses.py of the current folder."""
    loss_weight: float | None = setting(None, above=0)
    """Weight of the orthogonality term in bt (lambd) and spectral (beta), or of the invariance and
    variance terms in vicreg, whose covariance term has weight 1; temperature of simclr, share of
    the statistic in sigreg (lambd), weight of invariance in coding_rate; wmse has none. If None,
    it follows from projector_dim in bt and vicreg, and is 1, 0.2, 0.05 and 200 in spectral, simclr,
    sigreg and coding_rate."""
    multiview: MultiViewForm = setting("pairs")
    """How bt compares more than two views: every pair, or each view with the mean of the others."""

    dataset: Images = setting("fashion-mnist-sample", published="if public", may_differ=True)
    """fashion-mnist-sample or fashion-mnist-moved-sample, which are in the package; a folder,
    pattern or archive of images or .npy files; parquet, .tar or .csv files; or a Hub id. In a
    folder, every file that can be decoded by its suffix is an image; top folders that are all
    called train, val, test or the like are splits; the first folder below is the class, if every
    image has one."""
    split: Split = setting("train")
    """Split of the data set to train on."""
    image_column: Column = setting(None)
    """Column of the images; found by its type if None."""
    label_column: Column = setting(None, on_resume="free")
    """Column of the classes, used only for k-NN accuracy; found by type and name if None."""
    value_range: GivenRange = setting(None)
    """Stored values that become black and white, in images of any depth: 0 4095 for 12 bits in
    16-bit files; auto takes them from a sample of images. The full range of 16 bits if None."""
    background: Color = setting(BACKGROUND)
    """Color behind transparent pixels, such as white, black or #ff8800; drop takes the colors that
    are stored beneath. With 4 channels transparency is kept."""
    max_pixels: int | None = setting(None, least=1, on_resume="warn")
    """Most pixels of an image; larger ones are left out. The limit of Pillow, 179 million, if
    None."""
    streaming: bool = setting(False)
    """Read the data set front to back each epoch instead of indexing it; nothing is stored."""
    workers: int | None = setting(None, least=0, on_resume="free", may_differ=True)
    """Number of processes (with streaming: threads) that decode; one per core up to 8 if None."""
    cache_gb: float = setting(10.0, least=0, on_resume="free", may_differ=True)
    """Largest size in GB of decoded images that are cached under HF_HOME; 0 decodes every epoch."""
    max_broken: float = setting(0.01, least=0, most=1, on_resume="free")
    """Largest share of broken images, which are named and left out; more end the run. It is rounded
    up to whole images, so that one alone never does; 0 allows none."""

    views: int = setting(4, least=2, why="the loss compares views of the same image")
    """Number of views V per image, at least 2; a step costs V forward and backward passes."""
    local_views: int = setting(0, least=0)
    """Number of small local views per image beside them. They cost fewer pixels: six of 96 px are
    1.1 views of 224 px."""
    local_size: int = setting(96, least=1)
    """Side of a local view in pixels, at most img_size."""
    local_scale: tuple[float, float] = setting((0.05, 0.25))
    """Bounds of a local view's share of the image area. With local views, the upper one is also the
    least share of the other views, unless the preset has a larger one or view.scale is given."""
    local_pairs: bool = setting(False)
    """Whether the loss compares local views with each other too, and not only with the others."""
    preset: GivenPreset = setting("imagenet")
    """Augmentations of the views: grey suits 1 channel, multispectral any number of channels,
    microscopy and aerial images without an up; or ViewOptions or a function of one's own, such as
    my_views:make."""
    view: ViewOptions = setting(NO_CHANGES)
    """Changes of the preset, such as --view.flip 0; options that are None are those of the
    preset."""

    batch_size: int = setting(256, least=2, why="the loss is a statistic")
    """Images per step, summed over all processes."""
    micro_batch: int | None = setting(None, least=1, on_resume="warn")
    """Images that pass through the backbone at a time, summed over all processes: the gradient of
    the whole batch in less memory, for one more forward pass. The whole batch if None."""
    epochs: int = setting(100, least=1, on_resume="warn")
    """Number of passes over the images."""
    max_steps: int | None = setting(None, least=1, on_resume="warn")
    """Number of steps after which to stop, if the epochs take more; the schedule ends there too."""
    max_minutes: float | None = setting(None, above=0, on_resume="free")
    """Minutes after which to stop with a checkpoint, from which a resume continues."""
    optimizer: Name = setting("adamw")
    """Name of a timm optimizer: adamw, lars, lamb, sgd, ..."""
    lr: float = setting(1e-3, above=0, on_resume="warn")
    """Learning rate after warm-up."""
    lr_scaling: LrScaling = setting("none")
    """Multiply lr by batch_size / 256 (linear: sgd, lars) or by its root (sqrt: adamw, lamb)."""
    weight_decay: float = setting(0.05, least=0)
    """Weight decay; biases and norms are exempt."""
    warmup_epochs: float = setting(10.0, least=0)
    """Epochs of linear warm-up, at most a tenth of the run, before cosine decay to zero."""

    layer_decay: float | None = setting(None, least=0, most=1)
    """Factor of the learning rate from each layer to the one below, to go on from a large backbone:
    0.65 to 0.9 are usual. The same rate for all if None."""
    freeze_epochs: int = setting(0, least=0)
    """Epochs at the start in which only the projector is trained; the backbone, its batch norms
    included, stays as it is."""
    grad_clip: float | None = setting(None, above=0, on_resume="warn")
    """Largest norm of the gradient; a larger gradient is scaled down to it."""
    ema: float | None = setting(None, least=0, most=0.999999)
    """Decay of an exponential moving average of the weights, such as 0.999; the average is what is
    published and evaluated. It warms up, so that short runs forget the initial weights too. No
    average if None."""

    precision: Precision = setting("auto", on_resume="warn")
    """Precision of the backbone; auto is bf16 where the hardware supports it, else fp32. Losses are
    computed in fp32. fp64 is for checking that runs agree."""
    compile: bool = setting(False, on_resume="warn")
    """Compile the backbone with torch.compile; the first step then takes minutes."""
    grad_checkpointing: bool = setting(False, on_resume="warn")
    """Compute the blocks of the backbone again in the backward pass instead of keeping what they
    computed: the same gradient in less memory, for one more forward pass."""
    deterministic: bool = setting(False, on_resume="free")
    """Use only deterministic operations on a GPU, which are slower. Those of a CPU always are."""
    seed: int = setting(0, least=0)
    """Seed of the initial weights, the order of the images and the views."""
    cpu: bool = setting(False, on_resume="free")
    """Train on the CPU even if there is an accelerator."""
    output: Folder = setting(
        None, on_resume="free", published="no", from_file=False, may_differ=True
    )
    """Run folder; runs/{backbone}-{loss}-p{projector_dim}-aug{views} if None."""
    resume: bool = setting(False, on_resume="free", saved=False, from_file=False)
    """Continue from the newest checkpoint in the run folder, or start if there is none."""
    overwrite: bool = setting(False, on_resume="free", saved=False, from_file=False)
    """Delete an earlier run in the run folder."""
    checkpoint_steps: int | None = setting(None, least=1, on_resume="free")
    """Steps between checkpoints, in addition to those at the end of every epoch."""
    checkpoint_minutes: float | None = setting(30.0, above=0, on_resume="free")
    """Most minutes between two checkpoints; None saves at the end of epochs only."""
    keep_checkpoints: int = setting(2, least=1, on_resume="free")
    """Number of newest checkpoints to keep."""
    stop_when_disk_full: bool = setting(False, on_resume="free")
    """Stop if a checkpoint cannot be written, instead of training on until the next one."""
    timeout_minutes: float = setting(30.0, above=0, on_resume="free")
    """Minutes to wait for a process of the run that does not answer."""
    evaluate_every: int | None = setting(None, least=0, on_resume="free")
    """Epochs between evaluations of the features: their spectrum and, if there are labels, the k-NN
    accuracy of held-out images. A tenth of the epochs if None, never if 0 or streaming."""
    log_every: int = setting(10, least=1, on_resume="free")
    """Steps between lines of metrics.jsonl."""
    tracker: Tracker | None = setting(None, on_resume="free")
    """Also log to tensorboard, trackio or wandb: pip install 'effssl[trackers]'."""

    def __post_init__(self) -> None:
        for name in ("value_range", "local_scale"):
            if isinstance(getattr(self, name), list):  # from a file
                object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "view", ViewOptions.of(self.view))
        if self.backbone is None and self.init in (None, TIMM):
            object.__setattr__(self, "backbone", _BACKBONE)
        hints = get_type_hints(type(self))
        if isinstance(self.dataset, os.PathLike):
            object.__setattr__(self, "dataset", os.fspath(self.dataset))
        for field in dataclasses.fields(self):
            if field.name == "dataset" and hasattr(self.dataset, "__iter__"):
                continue  # text, or an object that load_source checks
            if field.name == "view":
                continue  # checked itself
            check_field(field, hints[field.name], getattr(self, field.name))
        if isinstance(self.value_range, tuple) and not self.value_range[0] < self.value_range[1]:
            raise ValueError(
                f"{option('value_range')} must rise from LOW to HIGH; got {self.value_range}"
            )
        color_of(self.background)
        self._check_loss()
        self.view.check_lengths(self.views, self.in_chans)
        _check_local_views(self)
        if self.output is not None:
            _check_output(self.output)
        if self.resume and self.overwrite:
            raise ValueError(
                f"{option('resume')} and {option('overwrite')} exclude each other: go on, or start "
                "anew"
            )

    def _check_loss(self) -> None:
        least = least_images(self.loss, self.projector_dim)
        if self.batch_size < least:
            raise ValueError(
                f"{option('loss')} {self.loss} needs {least} or more images in a batch for "
                f"{option('projector_dim')} {self.projector_dim}; {option('batch_size')} is "
                f"{self.batch_size}: take a larger batch or a narrower projector"
            )
        if self.loss in LOSSES:
            LOSSES[self.loss].check_multiview(self.multiview, option("multiview"))
            if self.loss_weight is not None:
                LOSSES[self.loss].check_weight(self.loss_weight, option("loss_weight"))
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in ("loss_weight", "multiview", "local_pairs") if is_own(self.loss) else ():
            if getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"{option(name)} is for the losses of effssl, and {option('loss')} is "
                    f"{self.loss}: leave it out, and set such values in the function"
                )

    def flags(self, without: Collection[str] = ()) -> list[str]:
        """Return the command-line flags of all fields that are not at their defaults.

        Args:
            without: Names of fields to leave out.
        """
        flags, defaults = [], type(self)().values()
        for name, value in self.values().items():
            if name == "preset" and is_own(value) and self.view.is_whole:
                continue  # nothing of it is left
            if name == "view" and name not in without:
                flags += self.view.flags()
            elif value != defaults[name] and name not in without:
                flags.append("--" + name.replace("_", "-"))
                words = value if isinstance(value, tuple) else (value,)
                flags += [] if value is True else map(str, words)
        return flags

    @classmethod
    def load(cls, file: str | os.PathLike) -> PretrainConfig:
        """Read the configuration of a run from its ``config.json``.

        Options of a single launch, resume and overwrite, are left at their defaults, whatever the
        file says.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not JSON, a key is not a field, or a value is out of bounds.
        """
        path = Path(file)
        if not path.is_file():
            if (path / "config.json").is_file():
                raise IsADirectoryError(f"{path} is a folder: give {path / 'config.json'}")
            raise FileNotFoundError(
                f"no configuration {path}: give the config.json of a run{nearest(path)}"
            )
        values = load_json(path)
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds no configuration but {type(values).__name__}")
        fields = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in fields:
                raise ValueError(
                    f"{path}: {name!r} is not a field of this version's PretrainConfig; "
                    f"{did_you_mean(name, fields)}rename or delete it"
                )
        dataset = values.get("dataset", "")
        if not isinstance(dataset, str):
            raise ValueError(f"{path}: dataset must be text; got {dataset!r}")
        if values.keys() >= _OF_A_RUN:
            values = BEFORE | values
        for name in ("loss", "preset"):
            if is_own(values.get(name)):
                values[name] = FromFile(values[name])
        try:
            with options_as_flags(False):  # the file has the names of the fields
                config = cls(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        defaults = config._of_one_launch()
        for name in defaults:
            if getattr(config, name) != defaults[name]:
                logger.warning("%s of %s is not taken from the file: set it here", name, path)
        return dataclasses.replace(config, **defaults)

    def save(self, file: Path) -> None:
        """Write the file that `load` reads; resume and overwrite are reset to their defaults."""
        write_json(file, self.values() | self._of_one_launch())

    def _of_one_launch(self) -> dict[str, Any]:
        """Return the defaults of the fields that are not saved."""
        names = names_where(self, "saved", False)
        return {f.name: f.default for f in dataclasses.fields(self) if f.name in names}

    def values(self) -> dict[str, Any]:
        """Return the values of all fields as JSON has them.

        A word stands in place of a data set in memory, and `view` has what is given.
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["view"] = self.view.given()
        if not isinstance(self.dataset, str):
            values["dataset"] = IN_MEMORY
        return values

    @property
    def name(self) -> str:
        """Name of the model, such as ``resnet50-bt-p256-aug4``; it counts local views too.

        Raises:
            ValueError: If the backbone is that of ``init``, which has not been read yet.
        """
        if self.backbone is None:
            raise ValueError(
                f"{option('backbone')} is that of {option('init')} {self.init!r}: give "
                f"{option('output')} to name the run"
            )
        loss = loss_word(self.loss)
        return str(ModelName(self.backbone, loss, self.projector_dim, self.all_views))

    @property
    def all_views(self) -> int:
        """Number of views per image of all sizes, which the loss compares."""
        return self.views + self.local_views

    @property
    def run_folder(self) -> Path:
        """Folder that the run writes to."""
        return Path("runs") / self.name if self.output is None else Path(self.output).expanduser()


def _check_local_views(config: PretrainConfig) -> None:
    low, high = config.local_scale
    if not 0 < low <= high <= 1:
        raise ValueError(
            f"{option('local_scale')} must be two shares of the image, 0 < LOW <= HIGH <= 1; got "
            f"{low:g} {high:g}"
        )
    if config.local_views and config.local_size > config.img_size:
        raise ValueError(
            f"{option('local_size')} must be at most {option('img_size')}, {config.img_size}, for "
            f"local views are the smaller ones; got {config.local_size}"
        )


def _check_output(output: str) -> None:
    if not output.strip() or "\0" in output:
        raise ValueError(f"{option('output')} must be the path of a folder; got {output!r}")
    try:
        Path(output).expanduser()
    except RuntimeError as error:  # of a user who is not there
        raise ValueError(
            f"{option('output')} {output!r} is in no folder of this machine: {error}"
        ) from error

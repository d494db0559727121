"""``effssl features``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from effssl.cli._check import at_least, no_folder
from effssl.cli._model import (
    Precision,
    check_names,
    images_of,
    is_main_process,
    load_model,
    pixel_options,
)
from effssl.shown import plain
from effssl.training._fields import Column, GivenColor, Split
from effssl.training.config import GivenRange, Preset


@dataclasses.dataclass(frozen=True)
class Features:
    """Write the features of every image of a data set, in order, to a file.

    A killed extraction goes on where it was when the same command is given again. With several
    GPUs: torchrun --nproc_per_node 8 -m effssl.cli features ...
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Model folder, run folder, repository owner/name on the Hub, or name in the package."""
    output: Path
    """x.safetensors or x.parquet, with features, labels, paths and rows; or a folder for
    datasets.load_from_disk, with the images too."""
    dataset: Annotated[str | None, tyro.conf.arg(metavar="DATASET")] = None
    """Images, as for pretrain; what the model was trained on if None."""
    split: Split = "train"
    """Split of the data set."""
    image_column: Column = None
    """Column with the images; found by its type if None."""
    label_column: Column = None
    """Column with integer classes; found by type and name if None."""
    value_range: GivenRange = None
    """Stored values that become black and white, or auto; those of the pretraining if None."""
    background: GivenColor = None
    """Color behind transparent pixels, or drop; that of the pretraining if None."""
    max_pixels: int | None = None
    """Most pixels of an image; that of the pretraining if None."""
    views: int = 0
    """Random views of each image to average over; 0: the image itself."""
    preset: Preset | None = None
    """What the views look like; as in the pretraining if None."""
    project: bool = False
    """Write projections instead of features."""
    batch_size: int = 256
    """Images in a forward pass."""
    precision: Precision = "fp32"
    """fp32 gives the features of timm to the bit; bf16 and fp16, by autocast, are several times
    faster on a GPU; auto is bf16 there if the GPU has it, else fp32."""
    workers: int | None = None
    """Processes that decode images; if None one for each core up to 8, but none on a CPU or for
    fewer than 2,000 images."""
    seed: int = 0
    """Seed of the views."""
    max_broken: float = 0.01
    """Largest share of broken images, which are named and left out; 0 allows none."""
    revision: Annotated[str | None, tyro.conf.arg(metavar="REVISION")] = None
    """Branch, tag or commit of the repository."""
    cpu: bool = False
    """Compute on the CPU even where there is a GPU."""

    def run(self) -> None:
        """Extract the features, and print where they are."""
        at_least(0, "views", self.views)
        at_least(1, "batch_size", self.batch_size)
        if not self.output.absolute().parent.is_dir():
            raise no_folder(self.output)
        check_names(self.model, self.dataset)
        from effssl.data import load_source
        from effssl.evaluation import extract_features
        from effssl.views import MultiView, ViewOptions
        from effssl.views.options import views_of

        _, encoder, trained = load_model(self.model, self.revision, self.cpu)
        dataset, image_column = images_of(self.model, trained, self.dataset, self.image_column)
        channels, size = encoder.backbone.pretrained_cfg["input_size"][:2]
        source = load_source(
            dataset,
            self.split,
            in_chans=channels,
            image_column=image_column,
            label_column=self.label_column,
            **pixel_options(encoder, trained, self.value_range, self.max_pixels, self.background),
        )
        views = None
        if self.views:
            preset, view = (self.preset, ViewOptions()) if self.preset else views_of(trained)
            options = view.over(preset)
            views = MultiView(options, views=self.views, size=size)
        extract_features(
            encoder,
            source,
            output=self.output,
            views=views,
            project=self.project,
            batch_size=self.batch_size,
            precision=self.precision,
            workers=self.workers,
            seed=self.seed,
            max_broken=self.max_broken,
            progress=True,
        )
        if is_main_process():
            print(plain(str(self.output)))

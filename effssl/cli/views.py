"""``effssl views``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from effssl.background import BACKGROUND
from effssl.cli._check import at_least, no_folder
from effssl.cli._model import check_names
from effssl.own import is_own
from effssl.shown import one_line, plain
from effssl.training._fields import Color, Column, Dataset, Split
from effssl.training.config import GivenPreset, GivenRange, PretrainConfig
from effssl.views.options import NO_CHANGES, ViewOptions

if TYPE_CHECKING:
    from effssl.views import MultiView
    from effssl.views.own import OwnViews


@dataclasses.dataclass(frozen=True)
class Views:
    """Draw a few images and their views, to see what options do to them before training."""

    dataset: Dataset = "fashion-mnist-sample"
    """Images to draw, as for pretrain."""
    preset: GivenPreset = "imagenet"
    """What views look like, as for pretrain."""
    view: ViewOptions = NO_CHANGES
    """Changes of the preset, as for pretrain."""
    output: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("views.png")
    """Picture to write; its name's ending says the format."""
    views: int = 4
    """Views per image."""
    img_size: int = 224
    """Side of a view in pixels."""
    in_chans: int = 3
    """Channels of the images."""
    images: int = 8
    """Number of images, spread evenly over the data set."""
    split: Split = "train"
    """Split of the data set."""
    image_column: Column = None
    """Column with the images; found by its type if None."""
    value_range: GivenRange = None
    """Stored values that become black and white, or auto, as for pretrain."""
    background: Color = BACKGROUND
    """Color behind transparent pixels, or drop, as for pretrain."""
    max_pixels: int | None = None
    """Most pixels of an image, as for pretrain."""
    seed: int = 0
    """Seed of the views."""

    def run(self) -> None:
        """Draw the picture, and print where it is."""
        for name in ("images", "views", "img_size", "in_chans"):
            at_least(1, name, getattr(self, name))
        if not self.output.parent.is_dir():
            raise no_folder(self.output)
        check_names(None, self.dataset)
        import PIL.Image
        import torch

        from effssl.atomic import replacing
        from effssl.data import BrokenImage, load_source
        from effssl.data._decode import image_name
        from effssl.data._loader import DecodedImages, decode_size
        from effssl.seeding import seeded_generator
        from effssl.views import MultiView
        from effssl.views._channels import channels_note
        from effssl.views._picture import draw_views

        view = ViewOptions.of(self.view)
        view.check_lengths(self.views, self.in_chans)
        if is_own(self.preset):
            multi_view = self._own(view)
        else:
            multi_view = MultiView(view.over(self.preset), views=self.views, size=self.img_size)
            if note := channels_note(self.preset, multi_view.options, self.in_chans):
                print(note, file=sys.stderr)
        source = load_source(
            self.dataset,
            self.split,
            in_chans=self.in_chans,
            image_column=self.image_column,
            value_range=self.value_range,
            background=self.background,
            max_pixels=self.max_pixels,
        )
        kind = PIL.Image.registered_extensions().get(self.output.suffix.lower())
        if kind not in PIL.Image.SAVE:
            raise ValueError(f"no picture can be written to {self.output}: end its name in .png")
        step = max(1, source.num_images // self.images)
        rows = range(0, source.num_images, step)[: self.images]
        decoded = DecodedImages(source, decode_size(self.img_size)).__getitems__(list(rows))
        for broken in (image for image in decoded if isinstance(image, BrokenImage)):
            print(f"skipped a broken image: {one_line(broken)}", file=sys.stderr)
        paths = dataclasses.replace(source, dataset=source.dataset.select(rows)).paths()
        shown = [image for image in decoded if isinstance(image, torch.Tensor)]
        if not shown:
            raise ValueError(f"none of the {len(decoded)} images looked at can be read")
        picture = draw_views(shown, multi_view, seeded_generator(self.seed, "views"))
        with replacing(self.output, "wb") as file:
            picture.save(file, kind)
        for row, path, image in zip(rows, paths, decoded, strict=True):
            if isinstance(image, torch.Tensor):
                print(plain(image_name(path, f"row {row}")))
        print(plain(f"{len(shown)} images with {self.views} views each: {self.output}"))

    def _own(self, view: ViewOptions) -> MultiView | OwnViews:
        """Import views of one's own, and try them."""
        import torch

        from effssl.training._own import Own, run_views

        given = {name: getattr(self, name) for name in ("preset", "views", "img_size", "in_chans")}
        config, own = Own().imported_for(PretrainConfig(view=view, **given))
        return run_views(config, own, torch.device("cpu"), {})[0]

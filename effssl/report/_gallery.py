"""Images of a run: views, nearest neighbors, and a map of the features."""

from __future__ import annotations

import base64
import dataclasses
import logging
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, features
from torch import Tensor
from torch.nn import functional as F

from effssl.data._loader import DecodedImages, decode_size
from effssl.data.sources import Source, load_source
from effssl.own import is_own
from effssl.report._svg import COLORS, Chart, draw
from effssl.seeding import seeded_generator
from effssl.training._views import create_views
from effssl.training.config import PretrainConfig
from effssl.views import MultiView
from effssl.views._picture import draw_views

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

_THUMBNAIL = 64  # px
_QUERIES, _NEIGHBORS = 12, 8
_SHOWN, MOST_VIEWS = 8, 6  # images and views of a size in the picture of views
_WIDTH = 1000  # largest width of that picture in px
_CHUNK = 64  # images decoded at a time
_CLASSES = 2 * len(COLORS)  # classes that the map can distinguish
_MANY = 3000  # points above which the map is a bitmap
_MARKERS = "os"  # markers of the first and the second ten classes


@dataclass(frozen=True)
class Sample:
    """A sample of the readable images of a run.

    Attributes:
        source: Images.
        labels: Class of each image; None without labels.
        names: Names of the classes, by label.
        broken: Number of sampled images that could not be read.
        paths: Path of each image; None where it has none.
    """

    source: Source
    labels: list[int] | None
    names: dict[int, str]
    broken: int
    paths: list[str | None]

    def __len__(self) -> int:
        return len(self.source.dataset)

    def thumbnail(self, i: int) -> str:
        """Return a thumbnail of image i, as a data URL."""
        (image,) = DecodedImages(self.source, _THUMBNAIL).__getitems__([i])
        shown = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
        picture = Image.fromarray(shown.permute(1, 2, 0).contiguous().numpy())
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        return _data(picture)

    def name(self, i: int) -> str:
        """Return the class name of image i; empty without labels."""
        return "" if self.labels is None else self.names[self.labels[i]]

    def path(self, i: int) -> str:
        """Return the path of image i; of an absolute one the end, since a report is passed on."""
        path = Path(self.paths[i] or "")
        return str(Path(*path.parts[-2:]) if path.is_absolute() else path) if path.name else ""

    def take(self, kept: list[int]) -> Sample:
        """Return the sample of some of the images."""
        return dataclasses.replace(
            self,
            source=dataclasses.replace(
                self.source, dataset=self.source.dataset.select(kept), num_images=len(kept)
            ),
            labels=None if self.labels is None else [self.labels[i] for i in kept],
            paths=[self.paths[i] for i in kept],
        )


def draw_sample(config: PretrainConfig, dataset: str | None, most: int) -> Sample:
    """Draw images at random, the same for every report of a run.

    Args:
        config: Configuration of the run.
        dataset: Dataset with the images; that of the run if None.
        most: Largest number of images to draw.

    Raises:
        FileNotFoundError: If there is no such dataset.
        ValueError: If it does not fit the configuration, or no image can be read.
    """
    source = load_source(
        dataset or config.dataset,
        config.split,
        in_chans=config.in_chans,
        image_column=config.image_column,
        label_column=config.label_column,
        value_range=config.value_range,
        background=config.background,
        max_pixels=config.max_pixels,
    )
    order = torch.randperm(len(source.dataset), generator=seeded_generator(config.seed, "report"))
    rows = order[:most].tolist()
    decoded, kept = DecodedImages(source, _THUMBNAIL), []
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        images = decoded.__getitems__(part)
        kept += [row for row, image in zip(part, images, strict=True) if isinstance(image, Tensor)]
    if not kept:
        raise ValueError(f"none of {len(rows):,} images can be read")
    whole = source.dataset.select(kept)
    source = dataclasses.replace(source, dataset=whole, num_images=len(whole))
    labels, names = _classes(source)
    return Sample(source, labels, names, broken=len(rows) - len(kept), paths=source.paths())


def views_picture(config: PretrainConfig, sample: Sample) -> str | None:
    """Draw a few images and their views, those of each size below each other, as a data URL.

    It is None for views of one's own: what made those may be anybody's code, which a report does
    not run.
    """
    if is_own(config.preset) and not config.view.is_whole:
        return None
    decoded = DecodedImages(sample.source, decode_size(config.img_size))
    images = decoded.__getitems__(_spread(sample, _SHOWN))
    whole = [image for image in images if isinstance(image, Tensor)]
    generator, pictures = seeded_generator(config.seed, "views"), []
    for of_size in create_views(config):
        shown = MultiView(of_size.options, views=min(of_size.views, MOST_VIEWS), size=of_size.size)
        pictures.append(draw_views(whole, shown, generator))
        pictures[-1].thumbnail((_WIDTH, 2 * _WIDTH))
    size = (max(p.width for p in pictures), sum(p.height for p in pictures))
    picture, top = Image.new("RGB", size, "white"), 0
    for part in pictures:
        picture.paste(part, (0, top))
        top += part.height
    return _data(picture)


def neighbors(sample: Sample, embedded: Tensor) -> list[tuple[int, list[int]]]:
    """Return a few images, each with its nearest neighbors by cosine, nearest first.

    Args:
        sample: N images.
        embedded: Their features, (N, F).
    """
    unit = F.normalize(embedded.float())
    queries = _spread(sample, _QUERIES)
    cosines = unit[queries] @ unit.T
    cosines[range(len(queries)), queries] = -torch.inf
    count = min(_NEIGHBORS, len(unit) - 1)
    return list(zip(queries, cosines.topk(count).indices.tolist(), strict=True))


def feature_map(sample: Sample, embedded: Tensor) -> tuple[Chart, list[tuple[str, str, bool, int]]]:
    """Draw the features along their two principal components.

    Args:
        sample: N images.
        embedded: Their features, (N, F).

    Returns:
        The chart; and for each class its name, color, whether its marker is square, and number of
        images. The latter is empty without labels or with too many classes.
    """
    title = "Features of images along their two principal components"
    x = embedded.double() - embedded.double().mean(0)
    if min(x.shape) < 2 or not x.any():
        return Chart(title, None, "The features do not span a plane: there is nothing to map."), []
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    places = u[:, :2] * s[:2]
    shares = (100 * s.square() / s.square().sum()).tolist()
    present = sorted(set(sample.labels or []))
    classes = present if len(present) <= _CLASSES else []
    labels = torch.tensor(sample.labels if classes else [0] * len(x))
    legend = []

    def plot(axes: Axes) -> None:
        for i, label in enumerate(classes or [0]):
            chosen = places[labels == label]
            color, square = COLORS[i % len(COLORS)], i >= len(COLORS)
            axes.plot(
                *chosen.T.tolist(),
                _MARKERS[square],
                color=color,
                markersize=2.6,
                alpha=0.75,
                markeredgewidth=0,
                rasterized=len(x) > _MANY,
            )
            if classes:
                legend.append((sample.names[label], color, square, len(chosen)))
        axes.set_xlabel(f"first component, {shares[0]:.0f} % of the variance")
        axes.set_ylabel(f"second, {shares[1]:.0f} %")

    text = "" if classes or not present else f"{len(present)} classes are too many for colors."
    return draw("map", title, plot, text=text, size=(4.6, 4.2)), legend


def _classes(source: Source) -> tuple[list[int] | None, dict[int, str]]:
    if source.label_column is None:
        return None, {}
    try:
        labels = source.labels()
    except ValueError as error:
        logger.info("%s", error)  # such as several labels an image
        return None, {}
    if max(labels) < 0:
        return None, {}
    known = source.class_names or ()
    names = {i: known[i] if i < len(known) else str(i) for i in set(labels) if i >= 0}
    return labels, names | {-1: "no label"}


def _spread(sample: Sample, count: int) -> list[int]:
    """Return some images, of as many classes as possible, in the order of classes."""
    if sample.labels is None:
        return list(range(min(count, len(sample))))
    of_class: dict[int, list[int]] = {}
    for i, label in enumerate(sample.labels):
        of_class.setdefault(label, []).append(i)
    classes = sorted(of_class)
    if len(classes) > count:
        classes = [classes[i * len(classes) // count] for i in range(count)]
    turns = [(turn, label) for turn in range(count) for label in classes]
    taken = [(label, turn) for turn, label in turns if turn < len(of_class[label])][:count]
    return [of_class[label][turn] for label, turn in sorted(taken)]


def _data(picture: Image.Image) -> str:
    kind = "webp" if features.check("webp") else "jpeg"
    file = BytesIO()
    picture.save(file, kind, quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"

"""Images read for an extraction, batch by batch; broken ones are named and left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from effssl.data._decode import BrokenImage, image_name, open_image
from effssl.data._loader import Batch, collate, decode_or_broken, decode_size
from effssl.data.sources import Source
from effssl.transform import EvalTransform
from effssl.views import MultiView


class ImagesAt(Dataset):
    """Images at places among some rows of a source; each comes with its place."""

    def __init__(
        self,
        source: Source,
        rows: Sequence[int],
        transform: Callable | None,
        views: MultiView | None,
    ) -> None:
        self.source, self.rows, self.views = source, rows, views
        ours = isinstance(transform, EvalTransform)
        self.transform = transform.crop_pixels if ours else transform  # pixels are mapped already

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, places: list[int]) -> list[tuple[int, Tensor | BrokenImage]]:
        rows = [self.rows[place] for place in places]
        values = self.source.dataset[rows][self.source.image_column]
        images = [self._read(row, value) for row, value in zip(rows, values, strict=True)]
        return list(zip(places, images, strict=True))

    def _read(self, row: int, value: object) -> Tensor | BrokenImage:
        if self.views is not None:
            # at the size at which training caches images
            side = decode_size(self.views.size)
            return decode_or_broken(value, f"row {row}", self.source, side)
        try:
            image = open_image(
                value,
                self.source.in_chans,
                value_range=self.source.value_range,
                background=self.source.background,
                max_pixels=self.source.max_pixels,
            )
        except BrokenImage as error:
            return BrokenImage(f"{image_name(value, f'row {row}')}: {error}")
        return self.transform(image)


def pack(
    items: list[tuple[int, Tensor | BrokenImage]], channels: int | None
) -> tuple[list[int], Tensor | Batch | None, list[int], dict[int, str]]:
    """Return all places, the readable images, which they are, and why others are not.

    The images are stacked, or packed into a `Batch` if the number of channels is given. Which they
    are is counted within this batch.
    """
    places, images = zip(*items, strict=True)
    broken = {i: str(image) for i, image in enumerate(images) if isinstance(image, BrokenImage)}
    kept = [i for i in range(len(images)) if i not in broken]
    whole = [images[i] for i in kept]
    packed = None
    if whole:
        packed = torch.stack(whole) if channels is None else collate(whole, channels)
    return list(places), packed, kept, broken

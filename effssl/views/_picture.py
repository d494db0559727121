"""Picture of images and their views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from effssl.views.multi_view import MultiView

_CELL = 96  # pixels to which smaller views are enlarged, about
_GAP, _HEADER = 4, 20


def draw_views(
    images: Sequence[Tensor], multi_view: MultiView, generator: torch.Generator | None = None
) -> Image.Image:
    """Draw a row for each image: the image, then its views, with the normalization undone.

    Args:
        images: uint8 images of any sizes, (C, H, W) each. The picture shows the first three of more
            than 3 channels, and the first of two.
        multi_view: Transform that makes the views.
        generator: CPU generator; torch's global one if None.

    Returns:
        An RGB picture.
    """
    scale = max(1, round(_CELL / multi_view.size))
    cell = multi_view.size * scale
    step = cell + _GAP
    size = ((1 + multi_view.views) * step + _GAP, len(images) * step + _GAP + _HEADER)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    titles = ["image", *(f"view {v + 1}" for v in range(multi_view.views))]
    for column, title in enumerate(titles):
        place = (_GAP + column * step + cell // 2, _HEADER // 2 + _GAP // 2)
        draw.text(place, title, fill="black", anchor="mm", font=ImageFont.load_default(12))
    for row, image in enumerate(images):
        channels = len(image)
        mean, std = (
            torch.tensor(s).view(-1, 1, 1) for s in multi_view.options.channel_stats(channels)
        )
        views = multi_view(image[None], generator)[:, 0]  # (V, C, S, S)
        pixels = ((views * std + mean).clamp(0, 1) * 255).round().byte()
        shown = [_fit(_to_pil(image), cell)]
        shown += [_to_pil(view).resize((cell, cell), Image.Resampling.NEAREST) for view in pixels]
        for column, part in enumerate(shown):
            left = _GAP + column * step + (cell - part.width) // 2
            top = _HEADER + _GAP + row * step + (cell - part.height) // 2
            picture.paste(part, (left, top))
    return picture


def _to_pil(image: Tensor) -> Image.Image:
    shown = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    return Image.fromarray(shown.permute(1, 2, 0).contiguous().numpy())


def _fit(image: Image.Image, cell: int) -> Image.Image:
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC
    return image.resize(size, method)

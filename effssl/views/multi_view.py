"""V random views of every image of a batch, made in one batched pass on the images' device."""

from __future__ import annotations

import dataclasses
import difflib

import torch
from torch import Tensor

from effssl.views import color
from effssl.views.geometry import crop_boxes, draw_crops, resized_crop


@dataclasses.dataclass(frozen=True)
class ViewOptions:
    """What a view may look like. Factors are drawn uniformly from [1 - x, 1 + x].

    Attributes:
        scale: Bounds of the crop's share of the image area.
        ratio: Bounds of the crop's width / height.
        flip: Probability of a left-right flip.
        jitter: Probability that brightness, contrast, saturation and hue are changed.
        brightness: Half-width of the brightness factor.
        contrast: Half-width of the contrast factor.
        saturation: Half-width of the saturation factor; RGB only.
        hue: Largest turn of the hue as a share of the circle, at most 0.5; RGB only.
        grey: Probability that the view loses its colour; RGB only.
        mean: Subtracted after scaling pixels to [0, 1]; one value a channel, or one for all.
        std: Divided by afterwards; as mean.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grey: float = 0.2
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def channel_stats(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std of normalisation for images of so many channels.

        RGB values are averaged for another number of channels, as timm does.
        """

        def fit(values: tuple[float, ...]) -> tuple[float, ...]:
            if len(values) == channels:
                return values
            return (round(sum(values) / len(values), 4),) * channels

        return fit(self.mean), fit(self.std)


PRESETS = {
    # the views of arXiv:2312.10725 for CIFAR: no blur, no solarize
    "cifar": ViewOptions(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    # the Barlow Twins recipe (arXiv:2103.03230, appendix A) without its blur and solarization
    "imagenet": ViewOptions(saturation=0.2, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    # objects that fill the image, without colour
    "grey": ViewOptions(scale=(0.4, 1.0), saturation=0.0, hue=0.0, grey=0.0),
}


class MultiView:
    """Make V random views of every image of a batch.

    A view is a random resized crop and flip in one antialiased resampling, then brightness,
    contrast, saturation and hue in this order, greyscale, and normalisation. Every image of every
    view has parameters of its own. Saturation, hue and greyscale apply to 3-channel images only.

    Args:
        options: Name of a preset (``cifar``, ``imagenet``, ``grey``) or a `ViewOptions`.
        views: Views per image, V.
        size: Side of a view in pixels, S.

    Raises:
        ValueError: If the preset is unknown, or views or size is below 1.

    Example:
        >>> views = MultiView("cifar", views=4, size=32)
        >>> views(torch.zeros(8, 3, 40, 48, dtype=torch.uint8)).shape
        torch.Size([4, 8, 3, 32, 32])
    """

    def __init__(self, options: str | ViewOptions = "cifar", *, views: int, size: int) -> None:
        if isinstance(options, str):
            if options not in PRESETS:
                near = difflib.get_close_matches(options, PRESETS, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ValueError(
                    f"unknown preset {options!r}; {hint}presets are {', '.join(PRESETS)}"
                )
            options = PRESETS[options]
        if views < 1 or size < 1:
            raise ValueError(f"views and size must be 1 or more, got {views} and {size}")
        self.options = options
        self.views = views
        self.size = size

    def draw(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw the parameters of the views of n images on the CPU.

        They do not depend on the sizes of the images, so a process can draw those of the global
        batch and keep the columns of its own images.

        Args:
            n: Number of images, N.
            generator: CPU generator; torch's global one if None.

        Returns:
            Tensors whose first two dimensions are (V, N).
        """
        o, shape = self.options, (self.views, n)
        draws = draw_crops(shape, o.scale, o.ratio, generator)
        uniform = torch.rand(7, *shape, generator=generator)
        jittered = uniform[0] < o.jitter
        for i, name in enumerate(("brightness", "contrast", "saturation"), start=1):
            half = getattr(o, name)
            low = max(0.0, 1 - half)
            factor = low + (1 + half - low) * uniform[i]
            draws[name] = torch.where(jittered, factor, 1.0)
        draws["hue"] = torch.where(jittered, o.hue * (2 * uniform[4] - 1), 0.0)
        draws["flip"] = uniform[5] < o.flip
        draws["grey"] = uniform[6] < o.grey
        return draws

    def apply(
        self, images: Tensor, draws: dict[str, Tensor], sizes: Tensor | None = None
    ) -> Tensor:
        """Make the views that the parameters describe.

        Args:
            images: uint8 in [0, 255] or float in [0, 1], (N, C, H, W).
            draws: What `draw` returned for these N images.
            sizes: Height and width of each image, (N, 2), where images of mixed sizes are padded
                at the bottom and right to one H x W; None if each fills H x W.

        Returns:
            Normalised float32 views on the device of the images, (V, N, C, S, S).
        """
        o, device = self.options, images.device
        n, channels, height, width = images.shape
        if sizes is None:
            sizes = torch.tensor([[height, width]]).expand(n, 2)
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        mean, std = (
            torch.tensor(s, device=device).view(-1, 1, 1) for s in o.channel_stats(channels)
        )
        result = torch.empty(self.views, n, channels, self.size, self.size, device=device)
        for v in range(self.views):
            draw = {name: values[v] for name, values in draws.items()}
            boxes = tuple(side.to(device) for side in crop_boxes(draw, sizes, o.ratio))
            draw = {name: values.to(device) for name, values in draw.items()}
            view = resized_crop(pixels, boxes, draw["flip"], self.size)
            if o.jitter and o.brightness:
                view = color.adjust_brightness(view, draw["brightness"])
            if o.jitter and o.contrast:
                view = color.adjust_contrast(view, draw["contrast"])
            if channels == 3:
                if o.jitter and o.saturation:
                    view = color.adjust_saturation(view, draw["saturation"])
                if o.jitter and o.hue:
                    view = color.adjust_hue(view, draw["hue"])
                if o.grey:
                    view = color.grey_out(view, draw["grey"])
            torch.div(view - mean, std, out=result[v])
        return result

    def __call__(self, images, generator: torch.Generator | None = None) -> Tensor:
        """Draw and apply: views of a batch, (V, N, C, S, S), or of one PIL image, (V, C, S, S)."""
        if isinstance(images, Tensor):
            return self.apply(images, self.draw(len(images), generator))
        from torchvision.transforms.functional import pil_to_tensor

        if images.mode not in ("L", "RGB", "RGBA"):
            images = images.convert("RGB")
        pixels = pil_to_tensor(images).unsqueeze(0)
        return self.apply(pixels, self.draw(1, generator)).squeeze(1)
